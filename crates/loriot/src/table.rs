//! Aligned columns for people: the first to the left, the others to the right.

/// `rows` under `header` with two spaces between columns; every row as long as the header.
pub fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(header.to_vec());
    for row in rows {
        text += &line(row.iter().map(String::as_str).collect());
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_line_up_on_the_right() {
        let rows = [vec!["roc_auc".into(), "0.91".into()], vec!["f1".into(), "10.5".into()]];
        let want = "metric   value\nroc_auc   0.91\nf1        10.5\n";
        assert_eq!(super::render(&["metric", "value"], &rows), want);
    }
}
