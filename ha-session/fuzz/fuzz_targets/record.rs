#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ha_session::fuzzing::record(bytes));
