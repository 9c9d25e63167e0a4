//! Words for a person on standard error.
//!
//! A reader that went away (a closed terminal, a pipe to `head`) must not end a run: what cannot be
//! written is dropped. Nothing else in the harness writes to standard error but the logger.

use std::io::Write;

/// "1 way", "3 ways": a count with its word in the right number.
pub fn counted(count: usize, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// Writes a line that begins with the program's name.
pub fn tell(text: &str) {
    // Nobody is left to be told of the error.
    let _ = writeln!(std::io::stderr().lock(), "cnibench: {text}");
}
