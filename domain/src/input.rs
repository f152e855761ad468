//! Checks that every piece of text from outside passes before it reaches a rule or a row.

/// One thing wrong with an input: where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Field names and list positions from the input's root, such as `["lines", "0", "quantity"]`.
    pub path: Vec<String>,
    /// What is wrong and what would be right, for people.
    pub message: String,
}

impl Violation {
    /// Describes a violation of the field at `path`.
    pub fn new(path: &[&str], message: impl Into<String>) -> Self {
        Self { path: path.iter().map(|&part| part.to_owned()).collect(), message: message.into() }
    }

    /// Returns the same violation as seen from one level further out.
    #[must_use]
    pub fn within(mut self, parents: &[&str]) -> Self {
        self.path.splice(0..0, parents.iter().map(|&part| part.to_owned()));
        self
    }
}

/// Checks a text that must say something: 1 to `max_chars` characters and no NUL, which Postgres cannot store.
///
/// # Errors
/// The violation, with `path` as its place.
pub fn check_text(path: &[&str], value: &str, max_chars: usize) -> Result<(), Violation> {
    if value.trim().is_empty() {
        return Err(Violation::new(path, format!("must not be empty; give 1 to {max_chars} characters")));
    }
    check_length(path, value, max_chars)
}

fn check_length(path: &[&str], value: &str, max_chars: usize) -> Result<(), Violation> {
    if value.contains('\0') {
        return Err(Violation::new(path, "must not contain a NUL character (U+0000)"));
    }
    // Counting stops at the bound, so that a huge text costs no more than a long one.
    if value.chars().nth(max_chars).is_some() {
        return Err(Violation::new(path, format!("must not be longer than {max_chars} characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_refused_when_empty_too_long_or_holding_a_nul() {
        assert!(check_text(&["name"], "ok", 2).is_ok());
        assert!(check_text(&["name"], "äö", 2).is_ok(), "characters are counted, not bytes");
        for bad in ["", "  ", "abc", "a\0"] {
            assert_eq!(check_text(&["name"], bad, 2).expect_err(bad).path, ["name"]);
        }
    }

    #[test]
    fn a_path_grows_from_the_inside_out() {
        let violation = Violation::new(&["quantity"], "must be positive").within(&["lines", "3"]);
        assert_eq!(violation.path, ["lines", "3", "quantity"]);
    }
}
