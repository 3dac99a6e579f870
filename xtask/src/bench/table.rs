//! The results of one bench for people.

use std::collections::BTreeMap;

use super::results::{OURS, Results, Row};

/// A table per unit: one line per case, one column per contender.
pub(super) fn render(bench: &str, results: &Results) -> String {
    let table = |(unit, cases): (&String, _)| table(bench, caption(unit), cases);
    results.units.iter().map(table).collect()
}

fn caption(unit: &str) -> &str {
    match unit {
        "ns" => "median ns per call",
        "allocations" => "allocations per call",
        "bytes" => "bytes of the heap per endpoint",
        other => other,
    }
}

fn table(bench: &str, caption: &str, cases: &BTreeMap<String, Row>) -> String {
    let mut columns: Vec<&str> = cases
        .values()
        .flat_map(|row| row.keys())
        .map(String::as_str)
        .collect();
    columns.sort_unstable_by_key(|who| (*who != OURS, *who));
    columns.dedup();
    let first = cases
        .keys()
        .map(String::len)
        .chain([bench.len()])
        .max()
        .unwrap_or(0);
    let mut out = format!("\n{bench:first$}");
    for who in &columns {
        out += &format!("  {who:>12}");
    }
    out += &format!("   ({caption})\n");
    for (case, row) in cases {
        out += &format!("{case:first$}");
        for who in &columns {
            let width = who.len().max(12);
            match row.get(*who) {
                Some(value) => out += &format!("  {value:>width$.1}"),
                None => out += &format!("  {:>width$}", "-"),
            }
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_the_first_column_and_a_missing_peer_is_a_dash() {
        let mut results = Results::default();
        results.add("ns", "p2c/100", "ours", 9.25);
        results.add("ns", "p2c/100", "tower", 212.0);
        results.add("ns", "rr/100", "ours", 10.0);
        let table = render("balance", &results);
        let lines: Vec<Vec<&str>> = table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0][..3], ["balance", "ours", "tower"]);
        assert_eq!(lines[1], ["p2c/100", "9.2", "212.0"]);
        assert_eq!(lines[2], ["rr/100", "10.0", "-"]);
    }
}
