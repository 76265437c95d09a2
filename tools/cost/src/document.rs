//! Figures in a document that people write: they stand between two markers.

use std::path::Path;

/// Replaces what stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` in a Markdown file.
///
/// # Errors
/// Of the file; markers that are not there.
pub fn replace(path: &Path, name: &str, text: &str) -> Result<(), String> {
    let replaced = read_replaced(path, name, text)?;
    std::fs::write(path, replaced).map_err(|e| format!("{}: {e}", path.display()))
}

/// Whether [`replace`] will find what it needs: to be asked before a long run.
///
/// # Errors
/// As [`replace`].
pub fn check(path: &Path, name: &str) -> Result<(), String> {
    read_replaced(path, name, "").map(drop)
}

fn read_replaced(path: &Path, name: &str, text: &str) -> Result<String, String> {
    let document = std::fs::read_to_string(path);
    let document = document.map_err(|e| format!("{}: {e}", path.display()))?;
    replaced(&document, name, text).map_err(|text| format!("{}: {text}", path.display()))
}

fn replaced(document: &str, name: &str, text: &str) -> Result<String, String> {
    let (begin, end) = (
        format!("<!-- {name}:begin -->"),
        format!("<!-- {name}:end -->"),
    );
    let found = document.split_once(&begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(&end)?;
        Some((before, after))
    });
    let (before, after) = found.ok_or_else(|| format!("there are no {begin} and {end}"))?;
    Ok(format!(
        "{before}{begin}\n\n{}\n\n{end}{after}",
        text.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let document = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n";
        let expected = "a\n<!-- x:begin -->\n\nnew\n\n<!-- x:end -->\nb\n";
        let once = replaced(document, "x", "new\n").expect("markers");
        assert_eq!(once, expected);
        assert_eq!(replaced(&once, "x", "new").expect("markers"), expected);
    }

    #[test]
    fn a_document_without_markers_is_left_alone() {
        let text = replaced("a <!-- x:end --> <!-- x:begin -->", "x", "new");
        assert!(text.expect_err("no markers").contains("<!-- x:begin -->"));
    }
}
