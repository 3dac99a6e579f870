//! Shows the logs of a part.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(200);

/// How far back from the end the last lines are looked for, so that a huge log costs no more than this.
const WINDOW: u64 = 1024 * 1024;

/// Writes the last `lines` lines of every file to `out`; returns where each file ended.
///
/// # Errors
/// A file that exists and cannot be read, or `out` that cannot be written.
pub fn tail(files: &[PathBuf], lines: usize, out: &mut impl Write) -> io::Result<Vec<u64>> {
    let several = files.len() > 1;
    let mut ends = Vec::with_capacity(files.len());
    for path in files {
        if several {
            writeln!(out, "==> {} <==", path.display())?;
        }
        let mut file = match File::open(path) {
            Ok(file) => file,
            // Not written yet.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                ends.push(0);
                continue;
            }
            Err(e) => return Err(e),
        };
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(end.saturating_sub(WINDOW)))?;
        let mut bytes = Vec::new();
        file.take(WINDOW).read_to_end(&mut bytes)?;
        out.write_all(last_lines(&bytes, lines))?;
        ends.push(end);
    }
    out.flush()?;
    Ok(ends)
}

fn last_lines(bytes: &[u8], lines: usize) -> &[u8] {
    if lines == 0 {
        return &[];
    }
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let start = body
        .iter()
        .enumerate()
        .rev()
        .filter(|&(_, &b)| b == b'\n')
        .nth(lines - 1)
        .map_or(0, |(i, _)| i + 1);
    &bytes[start..]
}

/// Goes on writing what is added to the files, until `out` cannot be written.
///
/// # Errors
/// What ended it: a closed pipe is the usual end.
pub async fn follow(files: &[PathBuf], mut from: Vec<u64>, out: &mut impl Write) -> io::Result<()> {
    loop {
        for (path, at) in files.iter().zip(&mut from) {
            *at = copy_from(path, *at, out)?;
        }
        out.flush()?;
        tokio::time::sleep(POLL).await;
    }
}

fn copy_from(path: &Path, at: u64, out: &mut impl Write) -> io::Result<u64> {
    let Ok(mut file) = File::open(path) else {
        return Ok(0);
    };
    let end = file.metadata()?.len();
    // Shorter than before: it was started anew.
    let start = if end < at { 0 } else { at };
    file.seek(SeekFrom::Start(start))?;
    Ok(start + io::copy(&mut file.take(end - start), out)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_last_lines() {
        for (text, lines, expected) in [
            ("", 3, ""),
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc", 2, "b\nc"),
            ("a\nb\n", 9, "a\nb\n"),
            ("a\n\n\n", 2, "\n\n"),
            ("a\n", 0, ""),
        ] {
            assert_eq!(
                last_lines(text.as_bytes(), lines),
                expected.as_bytes(),
                "{text:?} {lines}"
            );
        }
    }

    #[test]
    fn what_is_added_or_written_anew_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut out = Vec::new();
        assert_eq!(copy_from(&path, 7, &mut out).unwrap(), 0);
        std::fs::write(&path, "one\n").unwrap();
        let at = tail(std::slice::from_ref(&path), 10, &mut out).unwrap()[0];
        std::fs::write(&path, "one\ntwo\n").unwrap();
        let at = copy_from(&path, at, &mut out).unwrap();
        std::fs::write(&path, "new\n").unwrap();
        copy_from(&path, at, &mut out).unwrap();
        assert_eq!(out, b"one\ntwo\nnew\n");
    }
}
