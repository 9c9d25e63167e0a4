//! Making a report: what is drawn by whom, and which files come of it.
//!
//! Owns formats and the division of work over the CPUs. Called by the command.

use crate::{
    book::{Book, slug},
    figure::{self, Place, Plan, raster, svg, theme::Theme},
    files::{self, ReportError},
    gate::{self, Policy},
    markdown,
    matrix::{Matrix, from_book},
    page::{self, Beside, Drawn},
    samples,
};
use cnibench_model::{Gate, Record, nearest::did_you_mean};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// A kind of file that a report can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// index.html: the page.
    Html,
    /// Every figure for slides, 1600 pixels wide (the matrix of few cnis narrower).
    Png,
    /// Every figure as a drawing.
    Svg,
    /// summary.md: for a pull request.
    Md,
    /// samples.csv: every sample.
    Csv,
    /// junit.xml: the verdicts, where arms were measured in pairs.
    Junit,
}

impl Format {
    /// Every format.
    pub const ALL: &'static [Self] =
        &[Self::Html, Self::Png, Self::Svg, Self::Md, Self::Csv, Self::Junit];

    /// The word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Html => "html",
            Self::Png => "png",
            Self::Svg => "svg",
            Self::Md => "md",
            Self::Csv => "csv",
            Self::Junit => "junit",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|f| f.name() == s).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|f| f.name()).collect();
            let hint = did_you_mean(s, names.iter().copied());
            format!("unknown format {s:?}{hint}; there are {}", names.join(", "))
        })
    }
}

/// What [`render`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The page, when it was asked for.
    pub page: Option<PathBuf>,
    /// Every file, in the order of the report.
    pub files: Vec<PathBuf>,
}

/// Renders records into `out`, which is made if it is not there. Several records stand side by side.
/// Two arms in pairs are judged by the default policy; see [`render_judged`].
///
/// Every file is written whole under another name first, so that an old report is never half new.
///
/// # Errors
/// No record, or a file that cannot be written, with its path and cause.
pub fn render(records: &[Record], out: &Path, formats: &[Format]) -> Result<Rendered, ReportError> {
    render_judged(records, &[], out, formats)
}

/// The same with the verdicts that were said of these records before, each told by its run id; of two
/// arms in pairs that have none the default policy's.
///
/// # Errors
/// As [`render`]; also when verdicts are all that is asked for, and there are none.
pub fn render_judged(
    records: &[Record],
    gates: &[Gate],
    out: &Path,
    formats: &[Format],
) -> Result<Rendered, ReportError> {
    if records.is_empty() {
        return Err(ReportError::NoRecord);
    }
    files::directory(out)?;
    let book = Book::new(records);
    let matrix = from_book(&book);
    let theme = Theme::new(&book);
    let gates = verdicts(records, gates);
    if gates.is_empty() && formats == [Format::Junit] {
        return Err(ReportError::NoVerdict);
    }
    let has = |format| formats.contains(&format);
    let mut written = Vec::new();
    let figures = match has(Format::Html) || has(Format::Png) || has(Format::Svg) {
        true => draw_all(&book, &matrix, &theme, &gates, out, formats)?,
        false => Vec::new(),
    };
    for figure in &figures {
        for format in [Format::Png, Format::Svg].into_iter().filter(|f| has(*f)) {
            written.push(out.join(format!("{}.{format}", figure.name)));
        }
    }
    let mut write = |name: &str, bytes: &[u8]| -> Result<PathBuf, ReportError> {
        let path = out.join(name);
        files::write(&path, bytes)?;
        written.push(path.clone());
        Ok(path)
    };
    if has(Format::Csv) {
        write("samples.csv", &samples::csv(records)?)?;
    }
    if has(Format::Md) {
        write("summary.md", markdown::markdown(&book, &matrix, &gates).as_bytes())?;
    }
    if has(Format::Junit) {
        for gate in &gates {
            let name = match gates.as_slice() {
                [_] => "junit.xml".to_owned(),
                _ => format!("junit-{}.xml", slug(&gate.runs.join("-"), 80)),
            };
            let make = |e: quick_junit::SerializeError| ReportError::Make {
                what: name.clone(),
                cause: e.to_string(),
            };
            write(&name, gate::junit(gate).map_err(make)?.as_bytes())?;
        }
    }
    let mut page = None;
    if has(Format::Html) {
        let beside = beside(out, formats, &figures, records);
        let html = page::page(&book, &matrix, &theme, &gates, &figures, &beside).map_err(|e| {
            ReportError::Make { what: "index.html".to_owned(), cause: e.to_string() }
        })?;
        page = Some(write("index.html", html.as_bytes())?);
    }
    Ok(Rendered { page, files: written })
}

/// What was said of each record in pairs, or what the default policy says.
fn verdicts(records: &[Record], said: &[Gate]) -> Vec<Gate> {
    let of = |record: &Record| {
        let own = |g: &&Gate| g.runs.last() == Some(&record.header.run_id);
        let known = said.iter().find(own).cloned();
        known.or_else(|| gate::judge_pairs(record, &Policy::default(), None).ok())
    };
    records.iter().filter_map(of).collect()
}

/// True when the file is the one record that the page was made from.
fn is_record(path: &Path, records: &[Record]) -> bool {
    let [record] = records else { return false };
    let found = fs::read_to_string(path).ok().and_then(|text| Record::from_json(&text).ok());
    // Not field by field: a number need not come back from text to its last bit.
    let own = |r: &Record| (r.header.run_id.clone(), r.header.started, r.trials.len());
    found.is_some_and(|found| own(&found) == own(record))
}

fn beside(out: &Path, formats: &[Format], figures: &[Drawn], records: &[Record]) -> Beside {
    let has = |format| formats.contains(&format);
    let mut downloads = Vec::new();
    let mut offer = |there: bool, href: &str, name: &str| {
        if there {
            downloads.push((href.to_owned(), name.to_owned()));
        }
    };
    offer(has(Format::Csv), "samples.csv", "samples.csv: every sample of every trial");
    offer(has(Format::Md), "summary.md", "summary.md: for a pull request");
    let matrix = figures.iter().any(|f| f.place == Place::Head);
    offer(matrix && has(Format::Png), "matrix.png", "matrix.png: the matrix as a slide");
    offer(matrix && has(Format::Svg), "matrix.svg", "matrix.svg: the same as a drawing");
    offer(
        is_record(&out.join("../record.json"), records),
        "../record.json",
        "record.json: everything this page was made from",
    );
    Beside { png: has(Format::Png), svg: has(Format::Svg), downloads }
}

/// Draws all figures on as many threads as there are CPUs and writes their files; the result is in
/// the order of the page, whatever order they were finished in.
fn draw_all(
    book: &Book<'_>,
    matrix: &Matrix,
    theme: &Theme,
    gates: &[Gate],
    out: &Path,
    formats: &[Format],
) -> Result<Vec<Drawn>, ReportError> {
    let plans = figure::plan(book, matrix, gates);
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<Result<Drawn, ReportError>>> = Mutex::new(Vec::new());
    let work = || {
        loop {
            let order = next.fetch_add(1, Ordering::Relaxed);
            let Some(plan) = plans.get(order) else { break };
            let drawn = draw(book, matrix, theme, plan, order, out, formats);
            if let Some(drawn) = drawn.transpose() {
                done.lock().unwrap_or_else(PoisonError::into_inner).push(drawn);
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from).min(plans.len());
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let mut drawn: Vec<Drawn> = done
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .into_iter()
        .collect::<Result<_, _>>()?;
    drawn.sort_by_key(|d| d.order);
    Ok(drawn)
}

fn draw(
    book: &Book<'_>,
    matrix: &Matrix,
    theme: &Theme,
    plan: &Plan,
    order: usize,
    out: &Path,
    formats: &[Format],
) -> Result<Option<Drawn>, ReportError> {
    let Some(scene) = figure::build(book, theme, matrix, plan) else { return Ok(None) };
    if formats.contains(&Format::Png) {
        let name = format!("{}.png", scene.name);
        let bytes = raster::render(&scene, theme)
            .map_err(|e| ReportError::Make { what: name.clone(), cause: e.to_string() })?;
        files::write(&out.join(name), &bytes)?;
    }
    if formats.contains(&Format::Svg) {
        let file = svg::render(&scene, theme, svg::Kind::File);
        files::write(&out.join(format!("{}.svg", scene.name)), file.as_bytes())?;
    }
    let svg = match formats.contains(&Format::Html) && plan.place() != Place::Head {
        true => svg::render(&scene, theme, svg::Kind::Inline),
        false => String::new(),
    };
    Ok(Some(Drawn { order, place: plan.place(), name: scene.name, svg }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_formats_offer_the_nearest() {
        assert_eq!("png".parse(), Ok(Format::Png));
        let error = "hmtl".parse::<Format>().unwrap_err();
        assert!(error.contains("did you mean \"html\"?") && error.contains("csv"), "{error}");
    }
}
