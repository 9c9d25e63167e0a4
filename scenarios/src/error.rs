//! What is wrong with a suite, where, and what was expected.

use cnibench_model::nearest::nearest;
use std::ops::Range;

/// A suite that cannot be used. `Display` is `file:line:column: what; what was expected`.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{file}:{line}:{column}: {message}")]
pub struct SuiteError {
    /// The file, or `catalogue suite "name"`.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong and what was expected.
    pub message: String,
}

impl SuiteError {
    /// An error at a byte range of the text.
    pub fn at(file: &str, text: &str, span: Range<usize>, message: impl Into<String>) -> Self {
        let before = text.get(..span.start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        Self { file: file.to_owned(), line, column, message: message.into() }
    }

    /// Turns the TOML parser's error into ours, with the nearest known field offered.
    pub fn from_toml(file: &str, text: &str, error: &toml::de::Error) -> Self {
        let message = match error.message() {
            // serde's own words name a type of this source and not what may stand there.
            m if m.starts_with("data did not match any variant") => {
                "a value of the wrong type; expected one value, or a list of values, of the type that this key has"
            }
            m => m,
        };
        let mut ticked = message.split('`').skip(1).step_by(2);
        let hint = match (message.starts_with("unknown field"), ticked.next()) {
            // The parser's own message lists what there is; only the nearest is worth adding.
            (true, Some(found)) => nearest(found, ticked)
                .map_or_else(String::new, |hit| format!("; did you mean {hit:?}?")),
            _ => String::new(),
        };
        Self::at(file, text, error.span().unwrap_or(0..0), format!("{message}{hint}"))
    }
}
