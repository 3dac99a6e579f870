//! `docs/contract-matrix.md` from the rows, of which every layer has one, and `docs/layer-order.md` against the tests that it names.
//!
//! Fails when the matrix is not what the rows say. `HA_BLESS=1` writes it:
//! `HA_BLESS=1 cargo test -p ha-testbed --test contract table`

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use super::rows::{LAWS, ROWS};

const MATRIX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/contract-matrix.md");
const ORDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/layer-order.md");
const BEGIN: &str = "<!-- begin: made by tests/tests/contract/table.rs -->\n";
const END: &str = "<!-- end -->\n";

/// The tests of this binary, as it lists them itself.
fn tests() -> BTreeSet<String> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--list", "--format", "terse"])
        .output()
        .unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let names = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    names.map(str::to_owned).collect()
}

fn matrix() -> String {
    let tests = tests();
    let mut table = "\n| layer |".to_owned();
    for law in LAWS {
        write!(table, " {} |", law.replace('_', " ")).unwrap();
    }
    table += "\n|---|";
    table += &"---|".repeat(LAWS.len());
    for row in ROWS {
        write!(table, "\n| `{}` |", row.layer).unwrap();
        for law in LAWS {
            let test = format!("rows::{}::{law}", row.name);
            match row.not.iter().find(|(not, _)| *not == law) {
                Some((_, why)) => {
                    assert!(!tests.contains(&test), "{test} is there and does not apply");
                    write!(table, " n/a: {why} |").unwrap();
                }
                None => {
                    assert!(tests.contains(&test), "there is no test {test}");
                    write!(table, " `{test}` |").unwrap();
                }
            }
        }
    }
    table + "\n\n"
}

/// The types that are layers, by the source of a crate.
fn layers_in(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            layers_in(&path, found);
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        let code = source.lines().filter(|line| line.starts_with("impl<S"));
        for (_, layer) in code.filter_map(|line| line.split_once(" Layer<S> for ")) {
            let end = layer.find(|letter: char| !letter.is_alphanumeric());
            found.insert(layer[..end.unwrap_or(layer.len())].to_owned());
        }
    }
}

#[test]
fn every_layer_of_the_workspace_has_a_row() {
    let mut layers = BTreeSet::new();
    for krate in ["ha-tower", "ha-db", "ha-session"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        layers_in(&root.join(krate).join("src"), &mut layers);
    }
    assert!(layers.contains("RetryLayer"), "{layers:?}");
    for layer in layers {
        let has_row = ROWS.iter().any(|row| {
            let path = row.layer.split(' ').next().unwrap();
            path.rsplit("::").next() == Some(&layer)
        });
        assert!(has_row, "{layer} has no row");
    }
}

#[test]
fn the_matrix_in_the_docs_is_what_the_rows_say() {
    let page = std::fs::read_to_string(MATRIX).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (committed, after) = rest.split_once(END).unwrap();
    let fresh = matrix();
    if std::env::var_os("HA_BLESS").is_some() {
        std::fs::write(MATRIX, format!("{before}{BEGIN}{fresh}{END}{after}")).unwrap();
        return;
    }
    assert!(
        committed == fresh,
        "docs/contract-matrix.md is out of date; write it with HA_BLESS=1"
    );
}

#[test]
fn the_pages_name_tests_that_there_are_and_the_order_page_names_all_of_its_own() {
    let tests = tests();
    for path in [MATRIX, ORDER] {
        let page = std::fs::read_to_string(path).unwrap();
        // Between back quotes; a path of modules ends in a test.
        let named = page.split('`').skip(1).step_by(2);
        let ours = ["rows::", "order::", "controls::"];
        for name in named.filter(|name| ours.iter().any(|module| name.starts_with(module))) {
            assert!(
                tests.contains(name),
                "{path} names {name}, which is no test"
            );
        }
    }
    let page = std::fs::read_to_string(ORDER).unwrap();
    for test in tests.iter().filter(|test| test.starts_with("order::")) {
        assert!(
            page.contains(&format!("`{test}`")),
            "docs/layer-order.md does not name {test}"
        );
    }
}
