//! What the parts are doing, as a table and as JSON.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What a cluster is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The address that a browser is pointed at.
    pub url: String,
    /// Where the edges listen.
    pub edges: Vec<SocketAddr>,
    /// Every part.
    pub parts: Vec<PartStatus>,
}

/// What one part is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartStatus {
    /// Its name.
    pub name: String,
    /// `primary`, `sync`, `replica`, `master`, `ready`… as far as somebody could be asked.
    pub role: Option<String>,
    /// Whether its process runs.
    pub state: RunState,
    /// Its main process.
    pub pid: Option<u32>,
    /// Where it listens.
    pub address: String,
}

/// Whether a part's process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RunState {
    /// It runs.
    Running,
    /// It is stopped (SIGSTOP): there, and not answering.
    Frozen,
    /// It is not there.
    Dead,
}

impl RunState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Frozen => "frozen",
            Self::Dead => "dead",
        }
    }
}

impl Status {
    /// The part with this name.
    pub fn part(&self, name: &str) -> Option<&PartStatus> {
        self.parts.iter().find(|part| part.name == name)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pid = |part: &PartStatus| {
            part.pid
                .map_or_else(|| "-".to_owned(), |pid| pid.to_string())
        };
        let rows: Vec<[String; 5]> = self
            .parts
            .iter()
            .map(|part| {
                [
                    part.name.clone(),
                    part.role.clone().unwrap_or_else(|| "-".to_owned()),
                    part.state.as_str().to_owned(),
                    pid(part),
                    part.address.clone(),
                ]
            })
            .collect();
        table(f, ["part", "role", "state", "pid", "address"], &rows)
    }
}

/// Writes columns as wide as their widest cell.
fn table<const N: usize>(
    f: &mut fmt::Formatter<'_>,
    head: [&str; N],
    rows: &[[String; N]],
) -> fmt::Result {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .chain([head[column].len()])
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut line = |cells: &[&str]| {
        for (i, cell) in cells.iter().enumerate() {
            if i + 1 == N {
                writeln!(f, "{cell}")?;
            } else {
                write!(f, "{cell:<width$}  ", width = widths[i])?;
            }
        }
        Ok(())
    };
    line(&head)?;
    for row in rows {
        let cells: [&str; N] = std::array::from_fn(|i| row[i].as_str());
        line(&cells)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lines_up_and_json_comes_back_the_same() {
        let status = Status {
            url: "http://localhost:8080".into(),
            edges: vec!["[::1]:8080".parse().unwrap()],
            parts: vec![
                PartStatus {
                    name: "edge-1".into(),
                    role: None,
                    state: RunState::Frozen,
                    pid: Some(12),
                    address: "127.0.0.1:8080".into(),
                },
                PartStatus {
                    name: "sentinel-1".into(),
                    role: Some("sentinel".into()),
                    state: RunState::Dead,
                    pid: None,
                    address: "127.0.0.1:26379".into(),
                },
            ],
        };
        let expected = "\
part        role      state   pid  address
edge-1      -         frozen  12   127.0.0.1:8080
sentinel-1  sentinel  dead    -    127.0.0.1:26379
";
        assert_eq!(status.to_string(), expected);
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
