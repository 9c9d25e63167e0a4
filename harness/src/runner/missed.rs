//! Which probed pairs of a case did not come about, when the case is given up, and what is said of it.
//!
//! Pure. `probed` keeps one for each group of clusters.

use cnibench_model::CaseId;
use std::collections::BTreeMap;

/// Pairs in a row, from the first on, after which there is no use in another.
const IN_VAIN: u32 = 2;

/// Why a pair did not come about.
#[derive(Debug)]
pub(super) enum Miss {
    /// No pair of the case will.
    Never(String),
    /// This one did not.
    ThisTime(String),
}

/// What became of the pairs of each case.
#[derive(Debug, Default)]
pub(super) struct Missed(BTreeMap<CaseId, Pairs>);

#[derive(Debug, Default)]
struct Pairs {
    taken: u32,
    missed: u32,
    never: bool,
    /// The last reason.
    reason: String,
}

impl Missed {
    /// A pair came about.
    pub(super) fn taken(&mut self, case: &CaseId) {
        self.0.entry(case.clone()).or_default().taken += 1;
    }

    /// A pair did not.
    pub(super) fn missed(&mut self, case: &CaseId, why: Miss) {
        let pairs = self.0.entry(case.clone()).or_default();
        pairs.missed += 1;
        (pairs.never, pairs.reason) = match why {
            Miss::Never(reason) => (true, reason),
            Miss::ThisTime(reason) => (pairs.never, reason),
        };
    }

    /// Is there no use in another pair?
    pub(super) fn is_over(&self, case: &CaseId) -> bool {
        self.0.get(case).is_some_and(|p| p.never || (p.taken == 0 && p.missed >= IN_VAIN))
    }

    /// A sentence for each case that has not all of its pairs.
    pub(super) fn notes(self, pairs: u32) -> Vec<String> {
        let said = |(case, p): (CaseId, Pairs)| match p.taken {
            0 => format!("{case}: not probed: {}", p.reason),
            n => format!("{case}: {n} of {pairs} pairs probed: {}", p.reason),
        };
        self.0.into_iter().filter(|(_, p)| p.missed > 0).map(said).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str) -> CaseId {
        CaseId(name.to_owned())
    }

    fn late() -> Miss {
        Miss::ThisTime("the window was elsewhere".to_owned())
    }

    #[test]
    fn one_pair_that_failed_is_skipped_and_told() {
        let (mut missed, a) = (Missed::default(), case("a"));
        missed.missed(&a, late());
        assert!(!missed.is_over(&a));
        missed.taken(&a);
        (0..3).for_each(|_| missed.missed(&a, late()));
        assert!(!missed.is_over(&a));
        missed.taken(&case("b"));
        assert_eq!(missed.notes(5), ["a: 1 of 5 pairs probed: the window was elsewhere"]);
    }

    #[test]
    fn a_case_without_any_is_given_up() {
        let mut missed = Missed::default();
        let (never, vain) = (case("never"), case("vain"));
        missed.missed(&never, Miss::Never("one namespace".to_owned()));
        missed.missed(&vain, late());
        assert!(missed.is_over(&never) && !missed.is_over(&vain));
        missed.missed(&vain, late());
        assert!(missed.is_over(&vain));
        let notes = missed.notes(5);
        assert_eq!(
            notes,
            ["never: not probed: one namespace", "vain: not probed: the window was elsewhere"]
        );
    }
}
