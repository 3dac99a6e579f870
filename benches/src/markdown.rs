//! Tables in Markdown, which read well as they are printed and go into a page as they are.

/// The lines of a table. The first `names` columns are set to the left, the numbers after them to the right.
#[must_use]
pub fn table<R: AsRef<[String]>>(head: &[&str], rows: &[R], names: usize) -> String {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let all = || std::iter::once(&head[..]).chain(rows.iter().map(AsRef::as_ref));
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = all().filter_map(|cells| cells.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).enumerate();
        let padded = cells.map(|(column, (cell, &width))| {
            if column < names {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
    };
    let rule: Vec<String> = widths
        .iter()
        .enumerate()
        .map(|(column, &width)| {
            if column < names {
                "-".repeat(width)
            } else {
                format!("{}:", "-".repeat(width.max(2) - 1))
            }
        })
        .collect();
    let mut lines = line(&head);
    lines.push_str(&line(&rule));
    lines.extend(rows.iter().map(|cells| line(cells.as_ref())));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_set_to_the_left_and_numbers_to_the_right() {
        let rows = [["ours".to_owned(), "7".to_owned()]];
        let text = table(&["who", "requests"], &rows, 1);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "| who  | requests |",
                "| ---- | -------: |",
                "| ours |        7 |",
            ]
        );
    }
}
