//! Names in the order in which people count: `worker2` before `worker10`.
//!
//! Owns that order. Called by the book for series and by the figures for nodes.

use std::cmp::Ordering;

/// Compares runs of digits as numbers and everything else by character.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (x, y) = (run(left), run(right));
        if x.is_empty() || y.is_empty() {
            // What is the same in this order but not in letters (`a1`, `a01`) still has one order.
            return left.len().cmp(&right.len()).then_with(|| a.cmp(b));
        }
        let digits = |s: &str| s.starts_with(|c: char| c.is_ascii_digit());
        let order = match digits(x) && digits(y) {
            true => {
                let (x, y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
                x.len().cmp(&y.len()).then_with(|| x.cmp(y))
            }
            false => x.cmp(y),
        };
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (&left[x.len()..], &right[y.len()..]);
    }
}

/// The leading run of digits, or of what is no digit.
fn run(text: &str) -> &str {
    let Some(first) = text.chars().next() else { return text };
    let digit = first.is_ascii_digit();
    let end = text.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_count_as_numbers() {
        let mut names = ["w10", "w2", "w", "w1", "a-2-b", "a-10-a", "w02", "10", "9"];
        names.sort_by(|a, b| compare(a, b));
        assert_eq!(names, ["9", "10", "a-2-b", "a-10-a", "w", "w1", "w02", "w2", "w10"]);
    }

    proptest! {
        #[test]
        fn it_is_an_order(a in "[a-c0-2é]{0,6}", b in "[a-c0-2é]{0,6}", c in "[a-c0-2é]{0,6}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &b) == Ordering::Equal, a == b);
            if compare(&a, &b) != Ordering::Greater && compare(&b, &c) != Ordering::Greater {
                prop_assert_ne!(compare(&a, &c), Ordering::Greater);
            }
        }
    }
}
