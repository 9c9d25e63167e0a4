//! Records laid out as a grid of series and cnis, with the trials of every cell.
//!
//! Owns labels, the order of rows and columns and which column is the baseline. Owns no statistics.
//! Everything that renders starts from here.

use crate::{
    kernels, natural,
    pairs::Over,
    stats::{self, Point},
    trust, units,
};
use cnibench_model::{
    Case, CaseId, CellStatus, Clock, CniInfo, CniSpec, Metric, NodePair, Placement, Record,
    SeriesKey, StoredHistogram, Surroundings, Trial, Workload, WorkloadParams,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Longest label in figures and table heads, in characters; the page shows the full name beside it.
const SHORT: usize = 34;

/// Some records as one grid.
#[derive(Debug)]
pub(crate) struct Book<'a> {
    pub records: &'a [Record],
    pub columns: Vec<Column<'a>>,
    pub rows: Vec<Row>,
    entries: HashMap<(usize, usize), Entry<'a>>,
}

/// One cni of one record.
#[derive(Debug)]
pub(crate) struct Column<'a> {
    pub record: &'a Record,
    pub spec: &'a CniSpec,
    pub info: Option<&'a CniInfo>,
    /// The full name, with the record's label where there are several records.
    pub label: String,
    /// The same, shortened in the middle and still unique.
    pub short: String,
    /// Index of the column that this one is compared with; its own index for a baseline.
    pub baseline: usize,
    /// True when this cni's trials ran next to those of its baseline.
    pub interleaved: bool,
}

/// One series.
#[derive(Debug)]
pub(crate) struct Row {
    pub key: SeriesKey,
    pub workload: Workload,
    pub placement: Placement,
    pub params: WorkloadParams,
    pub surroundings: Surroundings,
}

/// The trials of one cell and how it ended.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub case: &'a Case,
    pub status: Option<&'a CellStatus>,
    pub trials: Vec<&'a Trial>,
    /// For each trial the number of its pair of nodes, the same in all cells of a record; empty where
    /// the trials ran between one pair only.
    pairs: Vec<u32>,
}

impl Column<'_> {
    pub fn family(&self) -> &str {
        self.info.map_or(self.spec.name.as_str(), |i| i.family.as_str())
    }

    pub fn encrypted(&self) -> bool {
        self.info.is_some_and(|i| i.encrypted)
    }

    /// True for the cni named `host`.
    pub fn is_host(&self) -> bool {
        is_host(self.spec)
    }
}

impl Row {
    /// "tcp_rr cross-node" and the parameters that differ from the defaults.
    pub fn title(&self) -> String {
        let mut title = format!("{} {}", self.workload, self.placement);
        let params = self.params_text();
        if !params.is_empty() {
            title.push_str(", ");
            title.push_str(&params);
        }
        title
    }

    /// `key=value, ...` of the parameters that differ from the defaults and of what was asked of the
    /// cluster around.
    pub fn params_text(&self) -> String {
        self.params_without(None)
    }

    /// The same without one of them.
    pub fn params_without(&self, left_out: Option<&str>) -> String {
        let named = self.params.differing(self.workload).into_iter();
        let text = |(key, value): (&str, String)| match (key, self.params.rate) {
            ("rate", Some(rate)) => format!("rate={}", units::rate(rate, self.workload)),
            _ => format!("{key}={value}"),
        };
        let named = named.chain(self.surroundings.named());
        let kept = named.filter(|(key, _)| Some(*key) != left_out);
        kept.map(text).collect::<Vec<_>>().join(", ")
    }

    /// A file name stem: the series with everything but letters, digits and `-_` replaced.
    pub fn slug(&self) -> String {
        // A file name has 255 bytes at most, and a prefix and an ending come to it.
        slug(&self.key.0, 150)
    }
}

/// At most `most` characters of a text as a part of a file name: letters, digits, `-` and `_`.
pub(crate) fn slug(text: &str, most: usize) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    text.chars().take(most).map(|c| if legal(c) { c } else { '-' }).collect()
}

impl<'a> Entry<'a> {
    /// True when the cell's values may be shown: measured, or cut off with what was finished.
    pub fn has_values(&self) -> bool {
        !self.trials.is_empty()
            && matches!(
                self.status,
                None | Some(CellStatus::Measured | CellStatus::Interrupted { .. })
            )
    }

    /// The trials whose values may be shown: none of a cell that failed.
    pub fn shown(&self) -> &[&'a Trial] {
        if self.has_values() { &self.trials } else { &[] }
    }

    /// Position and value of the trials that have a metric, in trial order.
    ///
    /// A percentile is left out of trials with too few transactions, which are the slow ones: where
    /// some trials of a cell have it and some do not, those that do are no sample of the cell, and
    /// it has no value. A trial without any transaction has no latency at all and is no such case.
    fn measured(&self, metric: Metric) -> Vec<(usize, f64)> {
        let shown = || self.shown().iter().enumerate();
        let with = |m: Metric| shown().filter_map(move |(i, t)| Some((i, t.value(m)?)));
        let values: Vec<_> = with(metric).collect();
        let is_latency = Metric::LatencyMax.unit() == metric.unit() && metric != Metric::Jitter;
        if is_latency && values.len() < with(Metric::LatencyMax).count() {
            return Vec::new();
        }
        values
    }

    /// What a value of this cell is one of.
    pub fn over(&self) -> Over {
        if self.pairs.is_empty() { Over::Trials } else { Over::NodePairs }
    }

    /// What statistics may count as one observation each: the trials, or, where they ran between
    /// several pairs of nodes, the median of each pair. Pairs differ in what lies between them:
    /// their spread is no repeat noise, and ten trials of one pair are no ten pairs.
    ///
    /// `values` are those of trials, by position in [`Self::shown`]; what is not finite is left out.
    pub fn observations(&self, values: impl IntoIterator<Item = (usize, f64)>) -> Vec<Point> {
        let values = values.into_iter();
        if self.over() == Over::Trials {
            return values.map(|(i, value)| Point { block: self.trials[i].block, value }).collect();
        }
        let mut by_pair: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        values.for_each(|(i, value)| by_pair.entry(self.pairs[i]).or_default().push(value));
        by_pair
            .into_iter()
            .filter_map(|(block, values)| Some(Point { block, value: stats::median(&values)? }))
            .collect()
    }

    /// The observations of one metric.
    pub fn points(&self, metric: Metric) -> Vec<Point> {
        self.observations(self.measured(metric))
    }

    /// The values of the observations of one metric.
    pub fn values(&self, metric: Metric) -> Vec<f64> {
        self.points(metric).into_iter().map(|p| p.value).collect()
    }

    /// The median of one metric for each pair of nodes; nothing where there is one pair only.
    pub fn by_pair(&self, metric: Metric) -> Vec<(&'a NodePair, f64)> {
        if self.over() == Over::Trials {
            return Vec::new();
        }
        let nodes: HashMap<u32, &NodePair> = self
            .pairs
            .iter()
            .zip(&self.trials)
            .filter_map(|(pair, trial)| Some((*pair, trial.nodes.as_ref()?)))
            .collect();
        let points = self.points(metric).into_iter();
        points.filter_map(|p| Some((*nodes.get(&p.block)?, p.value))).collect()
    }

    /// Number of pairs of nodes with a shown trial; 0 where there is one pair only.
    pub fn pairs(&self) -> usize {
        match self.has_values() {
            true => self.pairs.iter().collect::<BTreeSet<_>>().len(),
            false => 0,
        }
    }

    /// The stored histograms.
    pub fn histograms(&self) -> impl Iterator<Item = &'a StoredHistogram> {
        self.shown().iter().filter_map(|t| t.histogram.as_ref())
    }
}

fn is_host(spec: &CniSpec) -> bool {
    spec.name == "host"
}

impl<'a> Book<'a> {
    pub fn new(records: &'a [Record]) -> Self {
        let mut columns: Vec<Column<'a>> = Vec::new();
        let mut rows: BTreeMap<SeriesKey, Row> = BTreeMap::new();
        let mut places: HashMap<(usize, &CaseId), (usize, SeriesKey)> = HashMap::new();
        for (number, record) in records.iter().enumerate() {
            let first = columns.len();
            let interleaved = trust::interleaved(record);
            let order = column_order(record);
            for &spec in &order {
                let baseline = kernels::baseline(&order, spec);
                columns.push(Column {
                    record,
                    spec,
                    info: record.cni(spec),
                    label: label(records, record, spec),
                    short: String::new(),
                    baseline: first + baseline,
                    interleaved: interleaved || trust::side_by_side(record, spec, order[baseline]),
                });
            }
            for case in &record.header.cases {
                let key = case.series();
                let column = columns[first..].iter().position(|c| *c.spec == case.cni);
                places.insert((number, &case.id), (first + column.unwrap_or(0), key.clone()));
                rows.entry(key.clone()).or_insert_with(|| Row {
                    key,
                    workload: case.workload,
                    placement: case.placement,
                    params: case.params.clone(),
                    surroundings: case.surroundings,
                });
            }
        }
        shorten_labels(&mut columns);
        let mut rows: Vec<Row> = rows.into_values().collect();
        let order = |w: Workload| Workload::ALL.iter().position(|other| *other == w);
        rows.sort_by(|a, b| {
            let by_name = || natural::compare(&a.key.0, &b.key.0);
            order(a.workload).cmp(&order(b.workload)).then_with(by_name)
        });
        let entries = entries(records, &rows, &places);
        Self { records, columns, rows, entries }
    }

    /// The cell of a row and a column; none where the plan has no such case.
    pub fn entry(&self, row: usize, column: usize) -> Option<&Entry<'a>> {
        self.entries.get(&(row, column))
    }

    /// What time values count. Of several records the first's; the page says when they differ.
    pub fn clock(&self) -> Clock {
        self.records.first().map_or(Clock::Wall, |r| r.header.clock)
    }

    /// "over 12 node pairs", where cells of the row have trials between several pairs of nodes.
    pub fn over_pairs(&self, row: usize) -> Option<String> {
        let pairs = (0..self.columns.len()).filter_map(|c| Some(self.entry(row, c)?.pairs()));
        let counts: BTreeSet<usize> = pairs.filter(|n| *n > 0).collect();
        Some(match (counts.first()?, counts.last()?) {
            (low, high) if low == high => format!("over {}", Over::NodePairs.count(*low)),
            (low, high) => format!("over {low} to {}", Over::NodePairs.count(*high)),
        })
    }

    /// The first of the metrics that any shown trial of the row has.
    pub fn first_measured(&self, row: usize, wanted: &[Metric]) -> Option<Metric> {
        wanted.iter().copied().find(|metric| {
            (0..self.columns.len())
                .filter_map(|c| self.entry(row, c))
                .any(|e| e.shown().iter().any(|t| t.value(*metric).is_some_and(f64::is_finite)))
        })
    }
}

/// The record's cnis with its baseline first: of two arms in pairs the one that was named, else `host`,
/// else the first of the plan.
fn column_order(record: &Record) -> Vec<&CniSpec> {
    if let Some(pairing) = &record.header.pairing {
        return vec![&pairing.baseline, &pairing.candidate];
    }
    let mut order: Vec<&CniSpec> = Vec::new();
    for case in &record.header.cases {
        if !order.contains(&&case.cni) {
            order.push(&case.cni);
        }
    }
    order.sort_by_key(|spec| (!is_host(spec), is_host(spec) && !spec.params.is_empty()));
    order
}

/// A cni's full name, with its record's label where there are several records.
pub(crate) fn label(records: &[Record], record: &Record, spec: &CniSpec) -> String {
    match records {
        [_] => spec.to_string(),
        _ => format!("{spec} @ {}", record_label(records, record)),
    }
}

/// What tells a record from the others: its run id, with the suite where ids repeat.
pub(crate) fn record_label(records: &[Record], record: &Record) -> String {
    let same = records.iter().filter(|r| r.header.run_id == record.header.run_id).count();
    if same <= 1 {
        return record.header.run_id.clone();
    }
    let position = records.iter().position(|r| std::ptr::eq(r, record)).unwrap_or(0);
    format!("{} #{}", record.header.run_id, position + 1)
}

fn shorten_labels(columns: &mut [Column<'_>]) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for column in columns {
        let mut short = ellipsis(&column.label, SHORT);
        let count = seen.entry(short.clone()).or_default();
        *count += 1;
        if *count > 1 {
            short = format!("{} [{count}]", ellipsis(&column.label, SHORT - 4));
        }
        column.short = short;
    }
}

/// At most `most` characters, cut in the middle; the end is kept longer, since it tells file names
/// apart.
pub(crate) fn ellipsis(text: &str, most: usize) -> String {
    let characters: Vec<char> = text.chars().collect();
    if characters.len() <= most {
        return text.to_owned();
    }
    let head = most * 2 / 5;
    let tail = most.saturating_sub(head + 1);
    let mut out: String = characters[..head].iter().collect();
    out.push('…');
    out.extend(&characters[characters.len() - tail..]);
    out
}

fn entries<'a>(
    records: &'a [Record],
    rows: &[Row],
    places: &HashMap<(usize, &'a CaseId), (usize, SeriesKey)>,
) -> HashMap<(usize, usize), Entry<'a>> {
    let row_of: HashMap<&SeriesKey, usize> =
        rows.iter().enumerate().map(|(i, r)| (&r.key, i)).collect();
    let place = |number: usize, case: &'a CaseId| -> Option<(usize, usize)> {
        let (column, key) = places.get(&(number, case))?;
        Some((*row_of.get(key)?, *column))
    };
    let mut entries = HashMap::new();
    for (number, record) in records.iter().enumerate() {
        for case in &record.header.cases {
            if let Some(at) = place(number, &case.id) {
                let (trials, pairs) = (Vec::new(), Vec::new());
                entries.insert(at, Entry { case, status: None, trials, pairs });
            }
        }
        for cell in &record.cells {
            if let Some(entry) = place(number, &cell.case).and_then(|at| entries.get_mut(&at)) {
                entry.status = Some(&cell.status);
            }
        }
        for trial in &record.trials {
            if let Some(entry) = place(number, &trial.case).and_then(|at| entries.get_mut(&at)) {
                entry.trials.push(trial);
            }
        }
    }
    number_pairs(records, entries.values_mut());
    entries
}

/// Numbers the pairs of nodes alike in all cells, so that a pair of one cni meets the same pair of
/// another.
fn number_pairs<'a: 'b, 'b>(
    records: &'a [Record],
    entries: impl Iterator<Item = &'b mut Entry<'a>>,
) {
    let trials = records.iter().flat_map(|r| &r.trials);
    let all: BTreeSet<Option<&NodePair>> = trials.map(|t| t.nodes.as_ref()).collect();
    if all.len() < 2 {
        return;
    }
    let numbers: HashMap<Option<&NodePair>, u32> = all.into_iter().zip(0..).collect();
    for entry in entries {
        let nodes = entry.trials.iter().map(|t| t.nodes.as_ref());
        let own: BTreeSet<&NodePair> = nodes.clone().flatten().collect();
        if own.len() >= 2 {
            entry.pairs = nodes.map(|n| numbers[&n]).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{Builder, mixed, twelve, usual};
    use cnibench_model::Rate;

    #[test]
    fn host_comes_first_and_is_the_baseline() {
        let mut paths = usual();
        paths.rotate_left(1);
        let records = [Builder { paths, ..Builder::default() }.build()];
        let book = Book::new(&records);
        assert!(book.columns[0].is_host());
        assert!(book.columns.iter().all(|c| c.baseline == 0));
        assert_eq!(book.columns.len(), 5);
        assert_eq!(book.rows.len(), 3);
        assert_eq!(book.entry(0, 4).unwrap().trials.len(), 6);
    }

    #[test]
    fn a_rate_is_titled_with_its_unit() {
        let mut record = Builder {
            series: vec![(Workload::UdpStream, Placement::CrossNode)],
            ..Builder::default()
        }
        .build();
        record.header.cases.iter_mut().for_each(|c| c.params.rate = Some(Rate(2e9)));
        let records = [record];
        assert_eq!(Book::new(&records).rows[0].title(), "udp_stream cross-node, rate=2 Gbit/s");
    }

    #[test]
    fn short_labels_stay_unique() {
        let records = [Builder { paths: twelve(), ..Builder::default() }.build()];
        let book = Book::new(&records);
        let mut short: Vec<_> = book.columns.iter().map(|c| c.short.clone()).collect();
        assert!(short.iter().all(|s| s.chars().count() <= SHORT));
        short.sort();
        short.dedup();
        assert_eq!(short.len(), 12);
    }

    #[test]
    fn each_record_keeps_its_own_baseline() {
        let records =
            [Builder::default().build(), Builder { seed: 2, ..Builder::default() }.build()];
        let book = Book::new(&records);
        assert_eq!(book.columns.len(), 10);
        assert_eq!(book.columns[7].baseline, 5);
        assert_eq!(book.columns[7].label, "flannel-host-gw @ r0002");
    }

    #[test]
    fn a_percentile_of_the_fast_trials_only_is_none_of_the_cell() {
        let mut record = Builder::default().build();
        let case = record.header.cases.iter().find(|c| c.workload == Workload::TcpRr).unwrap();
        let (id, series) = (case.id.clone(), case.series());
        let slow = record.trials.iter_mut().find(|t| t.case == id).unwrap();
        slow.samples.retain(|s| s.metric != Metric::LatencyP99);
        let records = [record];
        let book = Book::new(&records);
        let row = book.rows.iter().position(|r| r.key == series).unwrap();
        let entry = book.entry(row, 0).unwrap();
        assert!(entry.values(Metric::LatencyP99).is_empty());
        assert!(!entry.values(Metric::LatencyP50).is_empty());
        assert!(!book.entry(row, 1).unwrap().values(Metric::LatencyP99).is_empty());
    }

    #[test]
    fn a_failed_cell_shows_no_values() {
        let records = [mixed()];
        let book = Book::new(&records);
        let failed = book
            .rows
            .iter()
            .position(|r| r.key.0 == "tcp_rr/cross-node")
            .and_then(|row| book.entry(row, 1))
            .unwrap();
        assert!(!failed.trials.is_empty());
        assert!(failed.values(Metric::LatencyP50).is_empty());
    }
}
