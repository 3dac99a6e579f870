//! What the compiler says to mistakes that are easy to make. Each file in `cases` is one, with the answer in `.stderr`. After a change of wording,
//! `TRYBUILD=overwrite cargo test -p ha-ui` writes those anew: read them as somebody who does not know what is wrong.

#![allow(clippy::unwrap_used)]

use std::env;
use std::process::Command;

/// The compiler whose words the `.stderr` files hold. Each version has its own; the cases are for the words of this workspace.
const WRITTEN_BY: &str = "rustc 1.95.";

#[test]
fn common_mistakes_are_refused_with_a_text_that_helps() {
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&version.stdout);
    if !version.starts_with(WRITTEN_BY) {
        eprintln!(
            "left out: this is {}, and the answers are those of {WRITTEN_BY}*",
            version.trim()
        );
        return;
    }
    let cases = trybuild::TestCases::new();
    cases.compile_fail("cases/*.rs");
}
