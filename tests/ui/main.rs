//! What the compiler says to mistakes that are easy to make. Each file in `cases` is one, with the answer in `.stderr`. After a change of wording,
//! `TRYBUILD=overwrite cargo test -p ha-ui` writes those anew: read them as somebody who does not know what is wrong.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// The compiler whose words the `.stderr` files hold. Each version has its own; with another one, whose words differ, only that each
/// mistake is refused can be checked.
const WRITTEN_BY: &str = "rustc 1.95.";

#[test]
fn common_mistakes_are_refused_with_a_text_that_helps() {
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&version.stdout);
    let cases = trybuild::TestCases::new();
    if version.starts_with(WRITTEN_BY) {
        cases.compile_fail("cases/*.rs");
        return;
    }
    eprintln!(
        "this is {}, and the answers are those of {WRITTEN_BY}*: only that there is one is checked",
        version.trim()
    );
    // A case without an answer beside it has to be refused, in whatever words.
    let bare = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cases");
    fs::create_dir_all(&bare).unwrap();
    for case in fs::read_dir("cases").unwrap() {
        let case = case.unwrap().path();
        if case.extension().is_some_and(|extension| extension == "rs") {
            let copy = bare.join(case.file_name().unwrap());
            fs::copy(&case, &copy).unwrap();
            cases.compile_fail(copy);
        }
    }
}
