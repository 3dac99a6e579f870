//! What tells the processes of a bed from those of somebody who works in its directory.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// The variable in the environment of each process of a bed; its value is the bed's directory.
pub(super) const VARIABLE: &str = "HA_TESTBED_DIR";

/// Whether the process whose directory in `/proc` this is, and which works in `cwd`, was started by the bed that `cwd`
/// belongs to.
///
/// Its environment says so, or its output goes to the log beside the directory it works in. The environment is not
/// enough: servers that show what they are doing in their title (PostgreSQL, Redis) write it over their environment.
pub(super) fn is_on(process: &Path, cwd: &Path) -> bool {
    let cwd = undeleted(cwd.to_owned());
    let output = |fd| fs::read_link(process.join(fd)).ok().map(undeleted);
    [output("fd/1"), output("fd/2")]
        .into_iter()
        .flatten()
        .any(|log| is_beside(&log, &cwd))
        || environment(process)
            .and_then(|environment| bed_in(&environment))
            .is_some_and(|bed| cwd.starts_with(bed))
}

/// A process that is just becoming another program has none for a moment, although its start has been reported already.
fn environment(process: &Path) -> Option<Vec<u8>> {
    const MOMENT: Duration = Duration::from_millis(1);
    for _ in 0..20 {
        let environment = fs::read(process.join("environ")).ok()?;
        if !environment.is_empty() {
            return Some(environment);
        }
        std::thread::sleep(MOMENT);
    }
    None
}

fn is_beside(log: &Path, cwd: &Path) -> bool {
    log.extension() == Some(OsStr::new("log")) && cwd.starts_with(log.with_extension(""))
}

fn bed_in(environment: &[u8]) -> Option<PathBuf> {
    let value = environment.split(|byte| *byte == 0).find_map(|line| {
        let line = line.strip_prefix(VARIABLE.as_bytes())?;
        line.strip_prefix(b"=")
    })?;
    Some(PathBuf::from(OsStr::from_bytes(value)))
}

/// The path without what the kernel adds once the file is gone.
fn undeleted(path: PathBuf) -> PathBuf {
    let mut bytes = path.into_os_string().into_vec();
    if bytes.ends_with(b" (deleted)") {
        bytes.truncate(bytes.len() - b" (deleted)".len());
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_belongs_to_the_directory_beside_it_and_to_no_other() {
        for (log, cwd, beside) in [
            ("/bed/one.log", "/bed/one", true),
            ("/bed/one.log", "/bed/one/data", true),
            ("/bed/v1.2.log", "/bed/v1.2", true),
            ("/bed/one.log", "/bed/one2", false),
            ("/bed/one.log", "/bed", false),
            ("/bed/one", "/bed/one", false),
            ("/home/build.log", "/home/bed/one", false),
        ] {
            assert_eq!(
                is_beside(Path::new(log), Path::new(cwd)),
                beside,
                "{log} {cwd}"
            );
        }
    }

    #[test]
    fn the_bed_is_read_from_the_environment_by_its_whole_name() {
        let bed = |text: &str| bed_in(text.as_bytes());
        assert_eq!(bed("A=1\0HA_TESTBED_DIR=/bed\0B=2\0"), Some("/bed".into()));
        assert_eq!(bed("HA_TESTBED_DIRECTORY=/bed\0"), None);
        assert_eq!(bed("X_HA_TESTBED_DIR=/bed\0"), None);
        assert_eq!(bed(""), None);
    }

    #[test]
    fn a_path_that_is_gone_is_read_as_it_was() {
        assert_eq!(
            undeleted("/bed/one (deleted)".into()),
            Path::new("/bed/one")
        );
        assert_eq!(undeleted("/bed/one".into()), Path::new("/bed/one"));
    }
}
