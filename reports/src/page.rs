//! The page: index.html, one file without script or external resource.
//!
//! Owns what stands where on it; texts about numbers come from `meaning`, the run's facts from
//! `facts`. askama escapes every value; only our own SVG and CSS are marked safe.

use crate::{
    book::{Book, Entry, label},
    facts::{self, Run},
    figure::{
        Place, svg, text,
        theme::{Theme, tint_paint, variable},
    },
    footprint,
    gate::summary,
    matrix::{Against, Content, End, Matrix, MatrixCell, MatrixLine, Over, tint},
    meaning,
    paired::{CHANGE_HEADS, Paired, PairedRow, paired},
    proofs, sentences,
    stages::{self, Pairs, Table},
    units::counted,
    warnings::{self, Warning},
};
use askama::Template;
use cnibench_model::{Gate, Pairing, ProofOutcome, Role, Verdict, Workload};

/// Sentences shown unfolded.
const SENTENCES: usize = 10;

/// A drawn figure as the page needs it.
#[derive(Debug, Clone)]
pub(crate) struct Drawn {
    /// Position in the plan.
    pub order: usize,
    /// Where the page has it.
    pub place: Place,
    /// File name without ending.
    pub name: String,
    /// Inline SVG.
    pub svg: String,
}

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    title: String,
    subtitle: String,
    font: &'static str,
    light: String,
    dark: String,
    sentences: Vec<String>,
    more_sentences: Vec<String>,
    remarks: &'a [String],
    baseline: String,
    columns: Vec<Head<'a>>,
    rows: Vec<RowView<'a>>,
    pairs: Vec<PairsView>,
    change_heads: [&'static str; 2],
    sections: Vec<Section>,
    stages: Vec<StagesView>,
    curves: Vec<FigureView>,
    verdicts: Vec<VerdictView>,
    forests: Vec<FigureView>,
    warnings: Vec<Warning>,
    ends: Vec<EndView>,
    skipped_cnis: Vec<(String, String)>,
    notes: Vec<String>,
    meaning: Vec<(&'static str, String)>,
    proofs: Vec<ProofView>,
    footprint_heads: [&'static str; 6],
    footprint_explained: String,
    footprints: Vec<footprint::Row>,
    runs: Vec<Run>,
    downloads: &'a [(String, String)],
}

struct Head<'a> {
    label: &'a str,
    short: &'a str,
    mark: String,
    encrypted: bool,
}

struct RowView<'a> {
    anchor: String,
    workload: &'static str,
    placement: &'static str,
    params: String,
    lines: Vec<LineView<'a>>,
}

struct LineView<'a> {
    label: &'static str,
    unit: &'a str,
    cells: Vec<CellView>,
}

/// What the gate says.
struct VerdictView {
    headline: String,
    bad: bool,
    about: String,
    lines: Vec<(summary::Line, &'static str)>,
    sure: Vec<String>,
    differences: Vec<[String; 3]>,
}

/// Two arms in pairs.
struct PairsView {
    arms: [String; 2],
    explained: String,
    series: Vec<(String, Vec<PairView>)>,
}

struct PairView {
    label: &'static str,
    unit: String,
    values: [String; 2],
    change: String,
    by_rebuild: String,
    tint: String,
}

#[derive(Default)]
struct CellView {
    value: String,
    lines: Vec<String>,
    words: String,
    range: String,
    tint: String,
    link: Option<String>,
    bad: bool,
}

struct Section {
    anchor: String,
    name: &'static str,
    describe: &'static str,
    notes: Vec<String>,
    rows: Vec<SeriesView>,
}

struct SeriesView {
    anchor: String,
    title: String,
    figures: Vec<FigureView>,
    /// How many texts of the warnings below concern it.
    warnings: usize,
}

/// Where the time of one series goes.
struct StagesView {
    title: String,
    figures: Vec<FigureView>,
    pairs: Pairs,
    remarks: Vec<String>,
    tables: [Table; 2],
}

struct FigureView {
    svg: String,
    links: Vec<(String, &'static str)>,
}

struct EndView {
    anchor: String,
    case: String,
    end: &'static str,
    reason: String,
}

struct ProofView {
    kind: &'static str,
    cni: String,
    mark: &'static str,
    outcome: &'static str,
    remark: &'static str,
    failed: bool,
    summary: String,
    evidence: Vec<String>,
}

/// Which files stand beside the page.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beside {
    pub png: bool,
    pub svg: bool,
    /// Address and name of everything else worth fetching.
    pub downloads: Vec<(String, String)>,
}

/// The whole page.
pub(crate) fn page(
    book: &Book<'_>,
    matrix: &Matrix,
    theme: &Theme,
    gates: &[Gate],
    figures: &[Drawn],
    beside: &Beside,
) -> Result<String, askama::Error> {
    let (said, folded): (Vec<_>, Vec<_>) =
        sentences::sentences(book, matrix).into_iter().partition(|s| !s.folded);
    let mut sentences: Vec<String> = said.iter().map(|s| tight(&s.text)).collect();
    let mut more_sentences = sentences.split_off(sentences.len().min(SENTENCES));
    more_sentences.extend(folded.iter().map(|s| tight(&s.text)));
    let columns = matrix.columns.iter().enumerate().map(|(number, c)| Head {
        label: &c.label,
        short: &c.short,
        mark: svg::mark(theme, number),
        encrypted: c.encrypted,
    });
    let host = book.columns.iter().all(|c| book.columns[c.baseline].is_host());
    let names = facts::labels(book);
    let warnings = warnings::warnings(book);
    Page {
        title: facts::title(book),
        subtitle: facts::subtitle(book),
        font: text::font_face(),
        light: theme.variables(false),
        dark: theme.variables(true),
        sentences,
        more_sentences,
        remarks: &matrix.remarks,
        baseline: if host { "the host".to_owned() } else { "the baseline".to_owned() },
        columns: columns.collect(),
        rows: rows(matrix),
        pairs: book.records.iter().filter_map(paired).map(|table| pairs_view(&table)).collect(),
        change_heads: CHANGE_HEADS,
        sections: sections(book, figures, beside, &warnings),
        stages: stage_views(book, figures, beside),
        curves: figures_at(figures, beside, Place::Curves),
        verdicts: gates.iter().map(verdict_view).collect(),
        forests: figures_at(figures, beside, Place::Verdicts),
        warnings,
        ends: ends(book, matrix),
        skipped_cnis: book
            .records
            .iter()
            .flat_map(|r| &r.header.skipped_cnis)
            .map(|s| (s.cni.to_string(), s.reason.clone()))
            .collect(),
        notes: book.records.iter().flat_map(|r| r.notes.clone()).collect(),
        meaning: meaning::meaning(book),
        proofs: proof_views(book),
        footprint_heads: footprint::HEADS,
        footprint_explained: footprint::explained(book),
        footprints: footprint::rows(book),
        runs: book.records.iter().zip(names).map(|(r, label)| facts::run(r, label)).collect(),
        downloads: &beside.downloads,
    }
    .render()
}

/// Keeps "31 %" on one line.
fn tight(text: &str) -> String {
    text.replace(" %", "\u{a0}%")
}

fn anchor(row: usize) -> String {
    format!("series-{row}")
}

fn rows(matrix: &Matrix) -> Vec<RowView<'_>> {
    let view = |(number, row)| {
        let row: &crate::matrix::MatrixRow = row;
        RowView {
            anchor: anchor(number),
            workload: row.workload.name(),
            placement: row.placement.name(),
            params: row.notes().collect::<Vec<_>>().join(", "),
            lines: row
                .lines
                .iter()
                .map(|line| LineView {
                    label: line.metric.label(),
                    unit: &line.unit,
                    cells: line
                        .cells
                        .iter()
                        .enumerate()
                        .map(|(column, cell)| cell_view(cell, line, number, column))
                        .collect(),
                })
                .collect(),
        }
    };
    matrix.rows.iter().enumerate().map(view).collect()
}

fn verdict_view(gate: &Gate) -> VerdictView {
    let class = |j: &cnibench_model::Judgement| match (j.role, j.verdict) {
        (Role::Gates, Verdict::Regression | Verdict::Missing) => "bad",
        _ => "",
    };
    let lines = summary::lines(gate).into_iter().zip(&gate.judgements);
    let left = gate.gating().filter_map(summary::left_out);
    VerdictView {
        headline: tight(&summary::headline(gate)),
        bad: gate.exit_code == 1,
        about: summary::about(gate),
        lines: lines.map(|(line, judgement)| (line, class(judgement))).collect(),
        sure: summary::how_sure(gate).into_iter().chain(left).map(|s| tight(&s)).collect(),
        differences: gate
            .differences
            .iter()
            .map(|d| [d.field.clone(), d.baseline.clone(), d.candidate.clone()])
            .collect(),
    }
}

fn pairs_view(table: &Paired) -> PairsView {
    let view = |row: &PairedRow| {
        let against = row.line.cells.get(1).and_then(MatrixCell::value).map(|v| &v.against);
        let paint = against.and_then(|against| tint_paint(tint(&row.line, against)));
        PairView {
            label: row.line.metric.label(),
            unit: row.line.unit.clone(),
            values: row.values(),
            change: tight(&row.change()),
            by_rebuild: tight(&row.by_rebuild()),
            tint: paint.map(variable).unwrap_or_default(),
        }
    };
    let series = table.rows.chunk_by(|a, b| a.series == b.series);
    let series = series.map(|rows| (rows[0].title.clone(), rows.iter().map(view).collect()));
    let Pairing { baseline, candidate, .. } = &table.pairing;
    PairsView {
        arms: [baseline.to_string(), candidate.to_string()],
        explained: table.explained(),
        series: series.collect(),
    }
}

fn end_anchor(row: usize, column: usize) -> String {
    format!("end-{row}-{column}")
}

fn cell_view(cell: &MatrixCell, line: &MatrixLine, row: usize, column: usize) -> CellView {
    match &cell.content {
        Content::Nothing { end: End::TooFew, short, reason } => {
            CellView { value: short.clone(), range: reason.clone(), ..CellView::default() }
        }
        Content::Nothing { end, short, .. } => CellView {
            value: short.clone(),
            link: (*end != End::Absent).then(|| end_anchor(row, column)),
            bad: matches!(end, End::Failed | End::Invalid),
            ..CellView::default()
        },
        Content::Value(value) => {
            let (words, range) = match &value.against {
                Against::Baseline => ("baseline".to_owned(), None),
                Against::Change { words, interval_words, .. } => {
                    (words.clone(), interval_words.clone())
                }
                Against::None { why, .. } => (why.clone(), None),
            };
            let paint = tint_paint(tint(line, &value.against));
            let mut lines = vec![value.interval_text.clone()];
            if value.over == Over::NodePairs && value.centre.interval.is_some() {
                lines.push(format!("over {}", value.over.count(value.centre.n)));
            }
            lines.extend(value.partial.as_ref().map(|p| format!("cut off: {p}")));
            CellView {
                value: value.text.clone(),
                lines,
                words: tight(&words),
                range: tight(&range.unwrap_or_default()),
                tint: paint.map(variable).unwrap_or_default(),
                link: value.partial.as_ref().map(|_| end_anchor(row, column)),
                bad: false,
            }
        }
    }
}

fn sections(book: &Book<'_>, figures: &[Drawn], beside: &Beside, all: &[Warning]) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for workload in Workload::ALL {
        let rows: Vec<SeriesView> = book
            .rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.workload == *workload)
            .map(|(number, row)| SeriesView {
                anchor: anchor(number),
                title: row.title(),
                figures: figures_at(figures, beside, Place::Row(number)),
                warnings: all.iter().filter(|w| w.rows.contains(&number)).count(),
            })
            .collect();
        if !rows.is_empty() {
            sections.push(Section {
                anchor: workload.name().to_owned(),
                name: workload.name(),
                describe: workload.describe(),
                notes: meaning::workload_notes(book, *workload),
                rows,
            });
        }
    }
    sections
}

fn stage_views(book: &Book<'_>, figures: &[Drawn], beside: &Beside) -> Vec<StagesView> {
    let view = |row: usize| {
        let accounts = stages::accounts(book, row);
        StagesView {
            title: book.rows[row].title(),
            figures: figures_at(figures, beside, Place::Stages(row)),
            pairs: stages::pairs(book, &accounts).map(|s| tight(&s)),
            remarks: stages::remarks(book, &accounts),
            tables: [stages::per_stage(book, &accounts), stages::accounting(book, &accounts)],
        }
    };
    stages::rows(book).into_iter().map(view).collect()
}

fn figures_at(figures: &[Drawn], beside: &Beside, place: Place) -> Vec<FigureView> {
    figures
        .iter()
        .filter(|f| f.place == place)
        .map(|f| FigureView { svg: f.svg.clone(), links: links(f, beside) })
        .collect()
}

fn links(figure: &Drawn, beside: &Beside) -> Vec<(String, &'static str)> {
    let mut links = Vec::new();
    if beside.png {
        links.push((format!("{}.png", figure.name), "PNG"));
    }
    if beside.svg {
        links.push((format!("{}.svg", figure.name), "SVG"));
    }
    links
}

fn ends(book: &Book<'_>, matrix: &Matrix) -> Vec<EndView> {
    let mut out = Vec::new();
    for (row, matrix_row) in matrix.rows.iter().enumerate() {
        for (column, cell) in matrix_row.lines[0].cells.iter().enumerate() {
            let (end, reason) = match &cell.content {
                Content::Nothing { end: End::Absent | End::TooFew, .. } => continue,
                Content::Nothing { end, reason, .. } => (end_name(*end), reason.clone()),
                Content::Value(value) => {
                    let Some(partial) = &value.partial else { continue };
                    let reason = book.entry(row, column).map_or_else(String::new, interruption);
                    ("cut off", format!("{reason}; {partial} are shown"))
                }
            };
            let mut reason = reason;
            let kept = book.entry(row, column).map_or(0, |e| e.trials.len());
            if kept > 0 && cell.value().is_none() {
                reason.push_str(&format!(
                    " ({}, in samples.csv and in no figure)",
                    counted(kept as u64, "finished trial")
                ));
            }
            let case = cell.case.as_ref().map_or_else(String::new, ToString::to_string);
            out.push(EndView { anchor: end_anchor(row, column), case, end, reason });
        }
    }
    out
}

fn interruption(entry: &Entry<'_>) -> String {
    match entry.status {
        Some(cnibench_model::CellStatus::Interrupted { reason }) => reason.clone(),
        _ => String::new(),
    }
}

/// The word for a cell without values.
pub(crate) fn end_name(end: End) -> &'static str {
    match end {
        End::Failed => "failed",
        End::Invalid => "invalid",
        End::Skipped => "skipped",
        End::Interrupted => "cut off",
        End::TooFew => "too few",
        End::Absent => "absent",
    }
}

fn proof_views(book: &Book<'_>) -> Vec<ProofView> {
    proofs::in_order(book)
        .into_iter()
        .map(|(record, p)| ProofView {
            kind: p.kind.name(),
            cni: label(book.records, record, &p.cni),
            mark: proofs::mark(p.outcome),
            outcome: proofs::outcome(p.outcome),
            remark: proofs::remark(p.outcome).unwrap_or_default(),
            failed: p.outcome == ProofOutcome::Failed,
            summary: p.summary.clone(),
            evidence: p.evidence.clone(),
        })
        .collect()
}
