//! What cargo says about this workspace.

use std::path::PathBuf;

use serde_json::Value;

use crate::run::{Failure, Step};

fn metadata() -> Result<Value, Failure> {
    let args = ["metadata", "--format-version", "1", "--no-deps"];
    let bytes = Step::cargo("metadata", args).output()?;
    serde_json::from_slice(&bytes).map_err(|error| wrong(&error.to_string()))
}

fn wrong(what: &str) -> Failure {
    Failure::Result {
        path: "cargo metadata".into(),
        what: what.to_owned(),
    }
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> Result<PathBuf, Failure> {
    metadata()?["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| wrong("names no target_directory"))
}

/// Each library of the workspace with its features, `default` aside.
pub(crate) fn features() -> Result<Vec<(String, Vec<String>)>, Failure> {
    let metadata = metadata()?;
    let packages = metadata["packages"]
        .as_array()
        .ok_or_else(|| wrong("names no packages"))?;
    Ok(packages.iter().filter_map(library).collect())
}

fn library(package: &Value) -> Option<(String, Vec<String>)> {
    let is_library = |target: &Value| {
        target["kind"]
            .as_array()
            .is_some_and(|kinds| kinds.iter().any(|kind| kind == "lib"))
    };
    let has_library = package["targets"].as_array()?.iter().any(is_library);
    let features = package["features"].as_object()?;
    let named = features.keys().filter(|name| *name != "default");
    has_library.then(|| {
        let name = package["name"].as_str().unwrap_or_default().to_owned();
        (name, named.cloned().collect())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_with_their_features_and_programs_are_not() {
        let features = features().unwrap();
        let of = |name: &str| features.iter().find(|(package, _)| package == name);
        assert!(of("ha-db").unwrap().1.contains(&"postgres".to_owned()));
        assert!(of("xtask").is_none());
    }
}
