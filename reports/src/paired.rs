//! Two arms measured in pairs: for every case and metric the change, over all pairs and by rebuild.
//!
//! Owns that table as data and the words around it; a change and its interval are the matrix's. Judges
//! nothing. Called by the page, summary.md, the terminal and `trust`.

use crate::{
    book::{Book, Entry},
    matrix::{Against, Content, MatrixCell, MatrixLine, basis, line, primary},
    stats::{self, Change, Point},
    words,
};
use cnibench_model::{Metric, PairArm, Pairing, ProviderKind, Record, SeriesKey};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The heads of the table's columns after case and metric; those of both arms are their cnis.
pub(crate) const CHANGE_HEADS: [&str; 2] = ["change (95 % interval)", "by rebuild"];

/// Two arms, compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Paired {
    /// What was planned.
    #[serde(flatten)]
    pub pairing: Pairing,
    /// What was measured of it.
    pub measured: Measured,
    /// One for each series and metric that either arm has a value of.
    pub rows: Vec<PairedRow>,
    /// Makings are of pods alone, in one cluster.
    #[serde(skip)]
    pods_only: bool,
}

/// Pairs of which both trials were measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// Makings of the clusters that have one.
    pub makings: usize,
    /// Those of the series with the fewest, over all makings.
    pub fewest: usize,
    /// And of the series with the most.
    pub most: usize,
}

impl Measured {
    fn of(record: &Record, book: &Book<'_>) -> Self {
        let mut arms: BTreeMap<SeriesKey, BTreeMap<(u32, u32), BTreeSet<PairArm>>> =
            book.rows.iter().map(|row| (row.key.clone(), BTreeMap::new())).collect();
        for trial in &record.trials {
            if let (Some(slot), Some(case)) = (trial.pair, record.case(&trial.case)) {
                let pairs = arms.entry(case.series()).or_default();
                pairs.entry((slot.rebuild, slot.pair)).or_default().insert(slot.arm);
            }
        }
        arms.values_mut().for_each(|pairs| pairs.retain(|_, arms| arms.len() == 2));
        let makings: BTreeSet<u32> =
            arms.values().flat_map(|pairs| pairs.keys().map(|(making, _)| *making)).collect();
        let counts = || arms.values().map(BTreeMap::len);
        Self {
            makings: makings.len(),
            fewest: counts().min().unwrap_or(0),
            most: counts().max().unwrap_or(0),
        }
    }
}

/// One metric of one series.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairedRow {
    /// The series' key.
    pub series: SeriesKey,
    /// The same for people.
    pub title: String,
    /// The baseline's cell, then the candidate's with its change over all pairs.
    #[serde(flatten)]
    pub line: MatrixLine,
    /// The change within each rebuild, without an interval; none where it has no pair.
    pub rebuilds: Vec<Option<Change>>,
}

/// The table of a record; none where no pairs were planned.
pub fn paired(record: &Record) -> Option<Paired> {
    let pairing = record.header.pairing.clone()?;
    let records = std::slice::from_ref(record);
    let book = Book::new(records);
    let rebuild_of = rebuilds(record);
    let mut rows = Vec::new();
    for (row, about) in book.rows.iter().enumerate() {
        // Neither arm may have a value of a percentile that some of its trials have.
        let has = |metric: Metric| {
            let mut arms = (0..2).filter_map(|column| book.entry(row, column));
            arms.any(|entry| !entry.values(metric).is_empty())
        };
        for metric in ordered(primary(about.workload)).iter().filter(|metric| has(**metric)) {
            let of = |column| book.entry(row, column);
            let by_rebuild = (0..pairing.rebuilds).map(|rebuild| {
                let points = |entry: &Entry<'_>| -> Vec<Point> {
                    let all = entry.points(*metric).into_iter();
                    all.filter(|p| rebuild_of.get(&p.block) == Some(&rebuild)).collect()
                };
                let (baseline, candidate) = (points(of(0)?), points(of(1)?));
                stats::change(&candidate, &baseline, basis(*metric), pairing.adjacent)
            });
            rows.push(PairedRow {
                series: about.key.clone(),
                title: about.title(),
                rebuilds: by_rebuild.collect(),
                line: line(&book, row, *metric),
            });
        }
    }
    let provider = record.header.cases.first().map(|c| c.provider);
    let pods_only = provider == Some(ProviderKind::Kubeconfig);
    Some(Paired { measured: Measured::of(record, &book), pairing, rows, pods_only })
}

/// Every metric, those that stand for a workload first.
fn ordered(first: &[Metric]) -> Vec<Metric> {
    let rest = Metric::ALL.iter().filter(|m| !first.contains(m));
    first.iter().chain(rest).copied().collect()
}

/// The rebuild of every block.
fn rebuilds(record: &Record) -> BTreeMap<u32, u32> {
    record.trials.iter().filter_map(|t| Some((t.block, t.pair?.rebuild))).collect()
}

impl PairedRow {
    /// "21.4 (20.9–21.8)", of the baseline and of the candidate.
    pub(crate) fn values(&self) -> [String; 2] {
        let text = |cell: Option<&MatrixCell>| match cell.map(|c| &c.content) {
            Some(Content::Value(value)) => match value.centre.interval {
                Some(_) => format!("{} ({})", value.text, value.interval_text),
                None => value.text.clone(),
            },
            Some(Content::Nothing { short, .. }) => short.clone(),
            None => String::new(),
        };
        [text(self.line.cells.first()), text(self.line.cells.get(1))]
    }

    /// "31 % slower (29–33 %)".
    pub(crate) fn change(&self) -> String {
        let Some(value) = self.line.cells.get(1).and_then(MatrixCell::value) else {
            return String::new();
        };
        match &value.against {
            Against::Change { words, interval_words: Some(range), .. } => {
                format!("{words} ({range})")
            }
            Against::Change { words, .. } => words.clone(),
            Against::None { why, .. } => why.clone(),
            Against::Baseline => String::new(),
        }
    }

    /// "31, 29, 33 % slower" or "2 % slower; 1 % less time": what each rebuild says on its own.
    pub(crate) fn by_rebuild(&self) -> String {
        let text = |change: &Option<Change>| match change {
            Some(change) => words::size_alone(self.line.metric, change),
            None => "none".to_owned(),
        };
        let texts: Vec<String> = self.rebuilds.iter().map(text).collect();
        // "no change" has no figure to stand alone.
        let figure = |text: &&str| text.starts_with(|c: char| c.is_ascii_digit());
        let part = |text: &'_ String| text.split_once(' ').filter(|(f, _)| figure(f)).is_some();
        let same = texts.iter().all(|text| *text == texts[0]);
        let parts: Option<Vec<_>> = match texts.iter().all(part) {
            true => texts.iter().map(|t| t.split_once(' ')).collect(),
            false if same && texts.len() > 1 => return format!("{} in each", texts[0]),
            false => None,
        };
        match parts.as_deref() {
            Some([(_, unit), ..]) if parts.iter().flatten().all(|(_, u)| u == unit) => {
                let figures: Vec<&str> =
                    parts.iter().flatten().map(|(figure, _)| *figure).collect();
                format!("{} {unit}", figures.join(", "))
            }
            _ => texts.join("; "),
        }
    }

    /// How far rebuilds are apart, as a share: 0.02 where the largest ratio is 2 % above the least.
    fn spread(&self) -> Option<f64> {
        let sizes: Vec<f64> = self.rebuilds.iter().flatten().map(|c| c.size.ln()).collect();
        let most = sizes.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let least = sizes.iter().copied().fold(f64::INFINITY, f64::min);
        Some((most - least).exp() - 1.0).filter(|s| sizes.len() > 1 && s.is_finite())
    }
}

impl Paired {
    /// What the table says of itself.
    pub(crate) fn explained(&self) -> String {
        let Pairing { rebuilds, pairs, adjacent, .. } = self.pairing;
        let Measured { makings, fewest, most } = self.measured;
        if most == 0 {
            return "No pair was measured.".to_owned();
        }
        let how = match adjacent {
            true => "both trials of a pair next to each other in random order",
            false => "in every rebuild one arm after the other, so that nothing is adjacent",
        };
        let arms = if self.pods_only { "both arms' pods" } else { "both arms" };
        let makings_word = if rebuilds == 1 { "making" } else { "makings" };
        let planned = rebuilds as usize * pairs as usize;
        let mut text = match (makings, fewest) {
            (all, least) if all == rebuilds as usize && least == planned => format!(
                "{rebuilds} {makings_word} of {arms}, {pairs} {} of every case in each; {how}.",
                if pairs == 1 { "pair" } else { "pairs" },
            ),
            _ => {
                let count =
                    if fewest == most { fewest.to_string() } else { format!("{fewest} to {most}") };
                format!(
                    "{makings} of {rebuilds} {makings_word} of {arms}, {count} of {planned} pairs of every case; {how}. Why the others are missing is said under what failed or was cut off, and in the notes.",
                )
            }
        };
        if makings > 1 {
            let shared = if self.pods_only { "pods" } else { "clusters" };
            text.push_str(&format!(" The interval counts every pair as one observation, though those of one making share its {shared}: where makings differ by more than it is wide, it is too narrow."));
        }
        text
    }

    /// How far rebuilds are apart: median and largest over the cases' main metrics, with their number.
    pub(crate) fn between_rebuilds(&self) -> Option<(f64, f64, usize)> {
        let mut series: Vec<&SeriesKey> = Vec::new();
        let mut apart = Vec::new();
        for row in self.rows.iter().filter(|r| stats::Basis::Ratio == basis(r.line.metric)) {
            if !series.contains(&&row.series) {
                series.push(&row.series);
                apart.extend(row.spread());
            }
        }
        let most = apart.iter().copied().fold(0.0, f64::max);
        Some((stats::median(&apart)?, most, apart.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::in_pairs;

    #[test]
    fn every_case_and_metric_has_its_change_over_all_pairs_and_by_rebuild() {
        let record = in_pairs(3, 6, 1.0);
        let table = paired(&record).unwrap();
        let p50 = |t: &Paired| {
            let found = t.rows.iter().find(|r| r.line.metric == Metric::LatencyP50);
            found.unwrap().clone()
        };
        let row = p50(&table);
        let change = *row.line.cells[1].change().unwrap();
        assert_eq!((change.n, change.method), (18, stats::ChangeMethod::PairedRank));
        assert!((change.size - 1.31).abs() < 0.03, "{change:?}");
        assert_eq!(row.rebuilds.len(), 3);
        assert!(row.rebuilds.iter().all(|c| c.is_some_and(|c| c.n == 6)), "{row:?}");
        assert!(row.change().contains("% slower ("), "{}", row.change());
        let said = row.by_rebuild();
        assert!(said.ends_with(" % slower") && said.matches(", ").count() == 2, "{said}");
        let (_, most, cases) = table.between_rebuilds().unwrap();
        assert!(most < 0.05 && cases == 1, "{most} {cases}");
        // A rebuild that differs is seen.
        let (_, most, _) = paired(&in_pairs(3, 6, 1.2)).unwrap().between_rebuilds().unwrap();
        assert!((most - 0.2).abs() < 0.05, "{most}");
        assert!(paired(&crate::fixtures::Builder::default().build()).is_none());
    }

    #[test]
    fn the_baseline_is_the_one_that_was_named_even_beside_the_host() {
        let mut record = in_pairs(1, 4, 1.0);
        let pairing = record.header.pairing.as_mut().unwrap();
        std::mem::swap(&mut pairing.baseline, &mut pairing.candidate);
        let table = paired(&record).unwrap();
        let first = &table.rows[0].line.cells;
        assert_eq!(first[0].value().unwrap().against, Against::Baseline);
        assert!(first[0].case.as_ref().unwrap().0.contains("flannel-vxlan"));
        assert!((first[1].change().unwrap().size - 1.0 / 1.31).abs() < 0.03);
    }

    #[test]
    fn pairs_are_counted_from_the_trials() {
        let whole = paired(&in_pairs(2, 10, 1.0)).unwrap();
        assert!(whole.explained().starts_with("2 makings of both arms, 10 pairs of every case"));
        let mut record = in_pairs(2, 10, 1.0);
        // The fourth pair lacks its second trial.
        record.trials.retain(|t| t.block < 3 || t.block == 3 && t.case.0.contains("host"));
        let cut = paired(&record).unwrap();
        assert_eq!(cut.measured, Measured { makings: 1, fewest: 3, most: 3 });
        let said = cut.explained();
        assert!(said.starts_with("1 of 2 makings of both arms, 3 of 20 pairs of every case"));
        assert!(!said.contains("too narrow"), "{said}");
        record.trials.retain(|t| t.case.0.contains("host"));
        assert_eq!(paired(&record).unwrap().explained(), "No pair was measured.");
    }

    #[test]
    fn rebuilds_without_a_change_are_said_in_words() {
        let mut record = in_pairs(2, 3, 1.0);
        for trial in &mut record.trials {
            let p50 = trial.samples.iter_mut().filter(|s| s.metric == Metric::LatencyP50);
            p50.for_each(|s| s.value = 100.0);
        }
        let table = paired(&record).unwrap();
        let row = table.rows.iter().find(|r| r.line.metric == Metric::LatencyP50).unwrap();
        assert_eq!(row.by_rebuild(), "no change in each");
    }

    #[test]
    fn a_percentile_that_neither_arm_has_is_no_row() {
        let mut record = in_pairs(1, 3, 1.0);
        let p99 = |t: &Paired| t.rows.iter().any(|r| r.line.metric == Metric::LatencyP99);
        assert!(p99(&paired(&record).unwrap()));
        for trial in record.trials.iter_mut().filter(|t| t.block == 0) {
            trial.samples.retain(|s| s.metric != Metric::LatencyP99);
        }
        assert!(!p99(&paired(&record).unwrap()));
    }

    #[test]
    fn a_missing_arm_says_why() {
        let mut record = in_pairs(2, 3, 1.0);
        crate::fixtures::set_status(
            &mut record,
            "flannel-vxlan/tcp_rr",
            cnibench_model::CellStatus::Failed { short: "cni not up".into(), reason: "r".into() },
        );
        let table = paired(&record).unwrap();
        assert_eq!(table.rows[0].values()[1], "cni not up");
        assert_eq!(table.rows[0].change(), "");
        assert_eq!(table.rows[0].by_rebuild(), "none in each");
    }
}
