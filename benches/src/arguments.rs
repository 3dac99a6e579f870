use std::path::PathBuf;
use std::{env, fs, io};

/// What a load test is told on its command line: `--rows FILE`, and words that name what to run. Other flags are cargo's.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    rows: Option<PathBuf>,
    words: Vec<String>,
}

impl Arguments {
    /// Those of this process.
    #[must_use]
    pub fn read() -> Self {
        Self::of(env::args().skip(1))
    }

    fn of(mut args: impl Iterator<Item = String>) -> Self {
        let mut read = Self::default();
        while let Some(arg) = args.next() {
            if arg == "--rows" {
                read.rows = args.next().map(PathBuf::from);
            } else if !arg.starts_with('-') {
                read.words.push(arg);
            }
        }
        read
    }

    /// Whether to run what has this name: one of the words is a part of it, or there are none.
    #[must_use]
    pub fn want(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }

    /// Writes the rows to the file that was named, if one was.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, rows: impl AsRef<[u8]>) -> io::Result<()> {
        match &self.rows {
            Some(file) => fs::write(file, rows),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Arguments {
        Arguments::of(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn words_say_what_to_run_and_flags_of_cargo_say_nothing() {
        let read = of("kill --bench --rows /tmp/rows.json sigstop");
        assert_eq!(read.rows, Some(PathBuf::from("/tmp/rows.json")));
        assert!(read.want("sentinel_kill_9") && read.want("cluster_sigstop"));
        assert!(!read.want("sentinel_failover"));
        assert!(of("--bench").want("anything"));
    }
}
