//! Tables that read well on a terminal and in Markdown alike, and the spread of figures in them.

use std::fmt::{self, Display};

/// A table; the first column is aligned to the left, the others to the right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these headings.
    pub fn new<H: Display>(headings: impl IntoIterator<Item = H>) -> Table {
        Table {
            rows: vec![headings.into_iter().map(|h| h.to_string()).collect()],
        }
    }

    /// Appends a row; it has as many cells as there are headings.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.rows[0].len(), "a cell for each heading");
        self.rows.push(cells);
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = 0..self.rows[0].len();
        let width = |c: usize| self.rows.iter().map(|r| r[c].chars().count()).max();
        let widths: Vec<usize> = columns.map(|c| width(c).unwrap_or(0).max(3)).collect();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 {
                    write!(f, "| {cell:<width$} ")?;
                } else {
                    write!(f, "| {cell:>width$} ")?;
                }
            }
            writeln!(f, "|")?;
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let end = if column == 0 { '-' } else { ':' };
                    write!(f, "|{}{end}", "-".repeat(width + 1))?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// Median of several figures, and the range they are in.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// The one in the middle, or the mean of the two there.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub most: f64,
}

impl Spread {
    /// Of these figures; `None` if there are none.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[half]
        } else {
            (sorted[half - 1] + sorted[half]) / 2.0
        };
        Some(Spread {
            median,
            least,
            most,
        })
    }
}

/// Formatted as `median (least-most)`.
impl Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, least, most] = [self.median, self.least, self.most].map(figure);
        write!(f, "{median} ({least}-{most})")
    }
}

/// Three significant digits, or all digits before the point.
pub fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_string(),
        v if v < 0.0005 => "<0.001".to_string(),
        v if v < 1.0 => format!("{value:.3}"),
        v if v < 9.995 => format!("{value:.2}"),
        v if v < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A figure, or a dash where there is none.
pub fn cell<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_string(), |v| v.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(["load", "MiB/s"]);
        table.row(vec!["read".into(), "1234".into()]);
        let expected = "| load | MiB/s |\n|------|------:|\n| read |  1234 |\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = Spread::of([3.0, 1.0, 2.0, 10.0]).expect("figures");
        assert_eq!(spread.to_string(), "2.50 (1.00-10.0)");
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn figures_have_three_digits() {
        let shown = [0.0, 0.0001, 0.12345, 1.234, 12.34, 123.4, 12345.6].map(figure);
        assert_eq!(
            shown,
            ["0", "<0.001", "0.123", "1.23", "12.3", "123", "12346"]
        );
    }
}
