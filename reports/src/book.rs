//! Records laid out as a grid of series and cnis, with the trials of every cell.
//!
//! Owns labels, the order of rows and columns and which column is the baseline. Owns no statistics.
//! Everything that renders starts from here.

use crate::units;
use cnibench_model::{
    Case, CaseId, CellStatus, Clock, CniInfo, CniSpec, Metric, Placement, Record, SeriesKey,
    StoredHistogram, Trial, Workload, WorkloadParams,
};
use std::collections::{BTreeMap, HashMap};

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
}

/// One series.
#[derive(Debug)]
pub(crate) struct Row {
    pub key: SeriesKey,
    pub workload: Workload,
    pub placement: Placement,
    pub params: WorkloadParams,
}

/// The trials of one cell and how it ended.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub case: &'a Case,
    pub status: Option<&'a CellStatus>,
    pub trials: Vec<&'a Trial>,
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

    /// `key=value, ...` of the parameters that differ from the defaults.
    pub fn params_text(&self) -> String {
        let differing = self.params.differing(self.workload);
        let text = |(key, value): &(&str, String)| match (*key, self.params.rate) {
            ("rate", Some(rate)) => format!("rate={}", units::rate(rate, self.workload)),
            _ => format!("{key}={value}"),
        };
        differing.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    /// A file name stem: the series with everything but letters, digits and `-_` replaced.
    pub fn slug(&self) -> String {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let mut slug: String = self.key.0.chars().map(|c| if legal(c) { c } else { '-' }).collect();
        // A file name has 255 bytes at most, and a prefix and an ending come to it.
        slug.truncate(150);
        slug
    }
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

    /// Trial and value of one metric, in trial order.
    ///
    /// A percentile is left out of trials with too few transactions, which are the slow ones: where
    /// some trials of a cell have it and some do not, those that do are no sample of the cell, and
    /// it has no value. A trial without any transaction has no latency at all and is no such case.
    pub fn measured(&self, metric: Metric) -> Vec<(&'a Trial, f64)> {
        let with = |m: Metric| self.shown().iter().filter_map(move |t| Some((*t, t.value(m)?)));
        let values: Vec<_> = with(metric).collect();
        let is_latency = Metric::LatencyMax.unit() == metric.unit() && metric != Metric::Jitter;
        if is_latency && values.len() < with(Metric::LatencyMax).count() {
            return Vec::new();
        }
        values
    }

    /// The values of one metric, in trial order.
    pub fn values(&self, metric: Metric) -> Vec<f64> {
        self.measured(metric).into_iter().map(|(_, value)| value).collect()
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
        let mut rows: BTreeMap<(usize, SeriesKey), Row> = BTreeMap::new();
        let mut places: HashMap<(usize, &CaseId), (usize, SeriesKey)> = HashMap::new();
        for (number, record) in records.iter().enumerate() {
            let first = columns.len();
            for spec in column_order(record) {
                columns.push(Column {
                    record,
                    spec,
                    info: record.cni(spec),
                    label: label(records, record, spec),
                    short: String::new(),
                    baseline: first,
                });
            }
            for case in &record.header.cases {
                let order = Workload::ALL.iter().position(|w| *w == case.workload).unwrap_or(0);
                let key = case.series();
                let column = columns[first..].iter().position(|c| *c.spec == case.cni);
                places.insert((number, &case.id), (first + column.unwrap_or(0), key.clone()));
                rows.entry((order, key.clone())).or_insert_with(|| Row {
                    key,
                    workload: case.workload,
                    placement: case.placement,
                    params: case.params.clone(),
                });
            }
        }
        shorten_labels(&mut columns);
        let rows: Vec<Row> = rows.into_values().collect();
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

    /// The first of the metrics that any shown trial of the row has.
    pub fn first_measured(&self, row: usize, wanted: &[Metric]) -> Option<Metric> {
        wanted.iter().copied().find(|metric| {
            (0..self.columns.len())
                .filter_map(|c| self.entry(row, c))
                .any(|e| e.shown().iter().any(|t| t.value(*metric).is_some_and(f64::is_finite)))
        })
    }
}

/// The record's cnis with its baseline first: `host`, else the first of the plan.
fn column_order(record: &Record) -> Vec<&CniSpec> {
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
                entries.insert(at, Entry { case, status: None, trials: Vec::new() });
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
    entries
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
