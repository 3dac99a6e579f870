//! The page on security names tests that exist.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

/// Every `file`: `test` on the page.
fn named(page: &str) -> Vec<(&str, &str)> {
    page.split("`: `")
        .collect::<Vec<_>>()
        .windows(2)
        .map(|pair| {
            let file = pair[0].rsplit('`').next().unwrap();
            (file, pair[1].split('`').next().unwrap())
        })
        .collect()
}

#[test]
fn every_test_that_the_page_on_security_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    // A packaged crate has no docs beside it.
    let Ok(page) = fs::read_to_string(root.join("docs/session-security.md")) else {
        return;
    };
    let tests = named(&page);
    assert!(tests.len() > 30, "{tests:?}");
    for (file, test) in tests {
        let text = fs::read_to_string(root.join(file));
        let text = text.unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(
            text.contains(&format!("fn {test}(")),
            "{file} has no {test}"
        );
    }
    for number in 1..=5 {
        for requirement in 1..=3 {
            let id = format!("| 7.{number}.{requirement} ");
            if (number, requirement) == (3, 3) {
                continue;
            }
            assert!(page.contains(&id), "{id} is not on the page");
        }
    }
}
