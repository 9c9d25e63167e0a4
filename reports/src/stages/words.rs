//! Which stages make two cnis differ, in sentences.
//!
//! Owns these texts. Called by the waterfall, the page and summary.md.

use super::{Account, Difference, difference};
use crate::{
    book::Book,
    stats::{self, Effect, Interval},
    units::{Scale, number},
};
use cnibench_model::{Direction, Metric, Stage};

/// With up to so many pairs of cnis all are shown unfolded.
const SHOWN: usize = 6;

/// A sentence for each pair of cnis.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pairs {
    /// Each cni against the baseline, and neighbours in the order of their round trips.
    pub shown: Vec<String>,
    /// The other pairs.
    pub folded: Vec<String>,
}

impl Pairs {
    /// The same with every sentence changed.
    pub fn map(self, change: impl Fn(String) -> String) -> Self {
        let all = |texts: Vec<String>| texts.into_iter().map(&change).collect();
        Self { shown: all(self.shown), folded: all(self.folded) }
    }
}

/// One sentence for each pair of a row's accounts.
pub(crate) fn pairs(book: &Book<'_>, accounts: &[Account<'_>]) -> Pairs {
    let mut order: Vec<usize> = (0..accounts.len()).collect();
    order.sort_by(|a, b| accounts[*b].mean_ns.total_cmp(&accounts[*a].mean_ns));
    let mut pairs = Pairs::default();
    let all = accounts.len() * accounts.len().saturating_sub(1) / 2;
    for (place, a) in order.iter().enumerate() {
        for (next, b) in order.iter().enumerate().skip(place + 1) {
            let (a, b) = (&accounts[*a], &accounts[*b]);
            let to_baseline =
                |x: &Account<'_>, y: &Account<'_>| book.columns[x.column].baseline == y.column;
            let text = sentence(book, a, b);
            let first = next == place + 1 || to_baseline(a, b) || to_baseline(b, a);
            match all <= SHOWN || first {
                true => pairs.shown.push(text),
                false => pairs.folded.push(text),
            }
        }
    }
    pairs
}

/// "flannel-vxlan is 8.1 µs (7.4–8.8) slower per round trip than flannel-host-gw: encapsulation +4.1,
/// decapsulation +3.0 (88 % of it)."
fn sentence(book: &Book<'_>, a: &Account<'_>, b: &Account<'_>) -> String {
    let d = difference(book, a, b);
    let (slower, faster) = (&book.columns[d.slower].short, &book.columns[d.faster].short);
    let size = Size::of(book, &d);
    match d.change.as_ref().map(|c| (c.effect(Direction::LowerIsBetter), c.interval, c.n)) {
        Some((Effect::NotShown, Some(i), _)) => format!(
            "No difference per round trip is shown between {slower} and {faster} ({} to {} {}).",
            size.signed(i.low),
            size.signed(i.high),
            size.scale.unit
        ),
        Some((Effect::Better, Some(i), _)) => format!(
            "{slower} and {faster} cannot be ranked: the means of all transactions and those of the trials go different ways ({} to {} {}).",
            size.signed(i.low),
            size.signed(i.high),
            size.scale.unit
        ),
        Some((_, Some(i), _)) => format!(
            "{slower} is {} {} ({}) slower per round trip than {faster}: {}.",
            size.plain(d.ns),
            size.scale.unit,
            size.range(i),
            reasons(&d, &size)
        ),
        other => {
            let n = other.map_or(0, |(_, _, n)| n);
            format!(
                "{slower} is {} {} slower per round trip than {faster}: {}; of {} each there is no interval, so this may be chance.",
                size.plain(d.ns),
                size.scale.unit,
                reasons(&d, &size),
                stats::trials(n)
            )
        }
    }
}

/// The same against the baseline in a few words: "+8.1 µs against host: encapsulation +4.1"; none for
/// the baseline itself and where it has no account.
pub(crate) fn short(book: &Book<'_>, account: &Account<'_>, all: &[Account<'_>]) -> Option<String> {
    let column = &book.columns[account.column];
    let base = all.iter().find(|a| a.column == column.baseline && a.column != account.column)?;
    let d = difference(book, account, base);
    let size = Size::of(book, &d);
    let name = &book.columns[base.column].short;
    if d.change.is_some_and(|c| c.effect(Direction::LowerIsBetter) == Effect::NotShown) {
        return Some(format!("no difference from {name} is shown"));
    }
    let (ns, word) = match d.slower == account.column {
        true => (d.ns, reasons(&d, &size)),
        false => {
            // Told from the side of the account: what it has less of.
            let turned = |parts: &[(Stage, f64)]| parts.iter().map(|(s, p)| (*s, -p)).collect();
            let d =
                Difference { named: turned(&d.named), against: turned(&d.against), ..d.clone() };
            (-d.ns, reasons(&d, &size))
        }
    };
    Some(format!("{} {} against {name}: {word}", size.signed(ns), size.scale.unit))
}

fn reasons(d: &Difference, size: &Size) -> String {
    let list = |parts: &[(Stage, f64)]| {
        let parts = parts.iter().map(|(stage, ns)| format!("{stage} {}", size.signed(*ns)));
        parts.collect::<Vec<_>>().join(", ")
    };
    if d.named.is_empty() {
        return "no stage has it".to_owned();
    }
    let share = d.explained * 100.0;
    match d.against.is_empty() {
        true => format!("{} ({share:.0} % of it)", list(&d.named)),
        false => format!(
            "{}, the other way {} (together {share:.0} % of it)",
            list(&d.named),
            list(&d.against)
        ),
    }
}

/// How the times of one sentence are written: one unit, one number of digits.
struct Size {
    scale: Scale,
    decimals: usize,
}

impl Size {
    fn of(book: &Book<'_>, d: &Difference) -> Self {
        let scale = Scale::of(Metric::LatencyMean, book.clock(), &[d.ns.max(1_000.0)]);
        let decimals = if d.ns / scale.divisor < 1.0 { 2 } else { 1 };
        Self { scale, decimals }
    }

    fn plain(&self, ns: f64) -> String {
        number(ns / self.scale.divisor, self.decimals)
    }

    fn signed(&self, ns: f64) -> String {
        let text = self.plain(ns);
        if ns > 0.0 { format!("+{text}") } else { text }
    }

    fn range(&self, interval: Interval) -> String {
        format!("{}–{}", self.plain(interval.low), self.plain(interval.high))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixtures::probed, stages};
    use cnibench_model::Record;

    fn said(change: impl FnOnce(&mut Record)) -> Pairs {
        let mut record = probed();
        change(&mut record);
        let records = [record];
        let book = Book::new(&records);
        pairs(&book, &stages::accounts(&book, stages::rows(&book)[0]))
    }

    #[test]
    fn every_pair_has_a_sentence_that_names_its_stages() {
        let all = said(|_| {});
        assert_eq!(all.shown.len() + all.folded.len(), 15);
        let whole = [all.shown.clone(), all.folded].concat();
        let start = "flannel-vxlan is 8.";
        let of = |start: &str, end: &str| {
            whole.iter().find(|s| s.starts_with(start) && s.contains(end)).unwrap().clone()
        };
        let text = of(start, "than flannel-host-gw");
        assert!(text.contains(" µs ("), "{text}");
        assert!(text.contains("encapsulation +"), "{text}");
        assert!(text.contains("decapsulation +"), "{text}");
        assert!(text.contains(" % of it)"), "{text}");
        assert_eq!(all.shown.iter().filter(|s| s.contains("than host:")).count(), 5);
    }

    #[test]
    fn two_trials_may_be_chance_and_equal_cnis_do_not_differ() {
        let few = said(|r| r.probed.retain(|t| t.index < 2));
        let all = [few.shown, few.folded].concat();
        assert!(
            all.iter()
                .all(|s| s
                    .ends_with("; of 2 trials each there is no interval, so this may be chance.")),
            "{all:?}"
        );
        let same = said(|record| {
            let other = record.probed.clone();
            for trial in record.probed.iter_mut().filter(|t| t.case.0.contains("/ebpf/")) {
                let host =
                    other.iter().find(|t| t.block == trial.block && t.case.0.contains("/host/"));
                trial.result = host.unwrap().result.clone();
            }
        });
        let text = same.shown.iter().find(|s| s.starts_with("No difference")).unwrap();
        assert!(text.contains("host") && text.contains("ebpf"), "{text}");
    }
}
