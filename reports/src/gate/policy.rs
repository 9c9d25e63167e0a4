//! The gate's policy: what gates, from which size on, what has to be there; and the file it is read from.
//!
//! Owns the file's words, the checks with their lines, and the defaults. Judges nothing.

use cnibench_model::{Clock, Metric, SeriesKey, Workload, nearest::did_you_mean, nearest::nearest};
use serde::Deserialize;
use serde_spanned::Spanned;
use std::{ops::Range, str::FromStr};

/// Chance, in all that gates together, of an interval that misses the truth. Half of it lies on the bad
/// side: at most one run in a hundred of unchanged code shows a regression, before any floor.
pub const ALPHA: f64 = 0.02;
/// Changes smaller than this are not worth a word in CI.
pub const MIN_EFFECT: f64 = 0.03;
/// The same where the clock counts instructions: what is left to differ between boots of one program with
/// different seeds was seen to be less than half of this.
pub const COUNTED_MIN_EFFECT: f64 = 0.001;
/// The same of records that were made at different times by a wall clock, where what the machine did
/// differently is in the change and in no interval: with a threshold of 5 %, 18 to 34 % of comparisons of
/// unchanged code alarmed on a shared machine of two CPUs, which is what a drift of 4 to 5 % does.
pub const STORED_MIN_EFFECT: f64 = 0.15;
/// Resamples of the bootstrap.
pub const RESAMPLES: u32 = 1000;
/// Its seed: fixed, so that a record is judged the same whoever judges it.
pub const SEED: u64 = 0x00c2_1be2_c400_5eed;

/// A policy file with everything that may stand in one.
pub const EXAMPLE: &str = include_str!("example.toml");

/// What gates, and how strictly.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// See [`ALPHA`].
    pub alpha: f64,
    /// Smallest change that counts, as a share of the baseline; of metrics that are shares themselves a
    /// difference.
    pub min_effect: f64,
    /// The same between wall-clock records of different times.
    pub stored_min_effect: f64,
    /// The same where the clock counts instructions.
    pub counted_min_effect: f64,
    /// What is said otherwise of some cases; of several that fit the last one counts.
    pub rules: Vec<Rule>,
    /// Cases that have to be judged.
    pub required: Vec<Pattern>,
    /// Resamples of the bootstrap.
    pub resamples: u32,
    /// Its seed.
    pub seed: u64,
    /// The metrics of workloads that decide, where the policy names them.
    pub gates: Vec<(Workload, Vec<Metric>)>,
}

/// What may lie between two sides beside what is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Between {
    /// A moment of one machine: pairs by a wall clock.
    Pairs,
    /// Whatever a machine did differently at another time: stored records of a wall clock.
    Times,
    /// Nothing of a machine: counts of instructions.
    Counts,
}

/// What a policy says of some cases.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The cases.
    pub cases: Pattern,
    /// The metric; none: every metric.
    pub metric: Option<Metric>,
    /// Smallest change that counts.
    pub min_effect: Option<f64>,
    /// An improvement larger than this passes only as inconclusive: something else than the code may
    /// have changed (an encryption that is off, a path that is short).
    pub allowed_improvement: Option<f64>,
    /// Where it stands in its file, from 1.
    pub line: usize,
}

/// Series keys with `*` for any characters, e.g. `tcp_rr/*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Does the key of a series fit?
    pub fn fits(&self, series: &SeriesKey) -> bool {
        fits(self.0.as_bytes(), series.0.as_bytes())
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), None) => fits(rest, text),
        (Some((b'*', rest)), Some((_, behind))) => fits(rest, text) || fits(pattern, behind),
        (Some((a, rest)), Some((b, behind))) => a == b && fits(rest, behind),
        _ => false,
    }
}

impl Default for Policy {
    /// Of every workload the metric that stands for it: the median latency of request/response, the
    /// throughput of streams; where instructions are counted, those of a transaction or of a MiB.
    fn default() -> Self {
        Self {
            alpha: ALPHA,
            min_effect: MIN_EFFECT,
            stored_min_effect: STORED_MIN_EFFECT,
            counted_min_effect: COUNTED_MIN_EFFECT,
            rules: Vec::new(),
            required: Vec::new(),
            resamples: RESAMPLES,
            seed: SEED,
            gates: Vec::new(),
        }
    }
}

impl Policy {
    /// The metrics of a workload that decide.
    pub fn gating(&self, workload: Workload, clock: Clock) -> &[Metric] {
        let own = self.gates.iter().find(|(w, _)| *w == workload);
        own.map_or(crate::matrix::principal(workload, clock), |(_, metrics)| metrics)
    }

    /// The smallest change of a metric of a case that counts; a rule's own size counts as it is.
    pub fn min_effect(&self, series: &SeriesKey, metric: Metric, between: Between) -> f64 {
        let general = match between {
            Between::Pairs => self.min_effect,
            Between::Times => self.min_effect.max(self.stored_min_effect),
            Between::Counts => self.counted_min_effect,
        };
        self.said(series, metric, |rule| rule.min_effect).unwrap_or(general)
    }

    /// The largest improvement of a metric of a case that is believed.
    pub fn allowed_improvement(&self, series: &SeriesKey, metric: Metric) -> Option<f64> {
        self.said(series, metric, |rule| rule.allowed_improvement)
    }

    fn said(
        &self,
        series: &SeriesKey,
        metric: Metric,
        what: impl Fn(&Rule) -> Option<f64>,
    ) -> Option<f64> {
        let fitting =
            self.rules.iter().rev().filter(|rule| {
                rule.cases.fits(series) && rule.metric.is_none_or(|own| own == metric)
            });
        fitting.filter_map(what).next()
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// What is wrong, with its line.
    pub fn from_toml(file: &str, text: &str) -> Result<Self, PolicyError> {
        let raw: Raw = toml::from_str(text).map_err(|e| PolicyError::of_toml(file, text, &e))?;
        raw.check(&Reader { file, text })
    }
}

/// Why a policy cannot be used. `Display` is `file:line: what`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct PolicyError {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong and what was expected.
    pub message: String,
}

impl PolicyError {
    fn of_toml(file: &str, text: &str, error: &toml::de::Error) -> Self {
        let message = error.message();
        let mut ticked = message.split('`').skip(1).step_by(2);
        let hint = match (message.starts_with("unknown field"), ticked.next()) {
            (true, Some(found)) => nearest(found, ticked)
                .map_or_else(String::new, |hit| format!("; did you mean {hit:?}?")),
            _ => String::new(),
        };
        let at = error.span().unwrap_or(0..0);
        Reader { file, text }.error(at, format!("{message}{hint}"))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    confidence: Option<Spanned<Share>>,
    min_effect: Option<Spanned<Share>>,
    stored_min_effect: Option<Spanned<Share>>,
    counted_min_effect: Option<Spanned<Share>>,
    #[serde(default)]
    required: Vec<Spanned<String>>,
    #[serde(default)]
    gates: RawGates,
    #[serde(default)]
    rule: Vec<Spanned<RawRule>>,
}

type Names = Option<Vec<Spanned<String>>>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGates {
    tcp_stream: Names,
    tcp_rr: Names,
    tcp_crr: Names,
    udp_stream: Names,
    udp_rr: Names,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    cases: Spanned<String>,
    metric: Option<Spanned<String>>,
    min_effect: Option<Spanned<Share>>,
    allowed_improvement: Option<Spanned<Share>>,
}

/// `"3%"` or `0.03`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a share, e.g. \"3%\" or 0.03")]
enum Share {
    Number(f64),
    Whole(i64),
    Text(String),
}

/// A share from `3%`, `0.5 %` or `0.03`.
///
/// # Errors
/// A sentence that says what was expected.
pub fn share(text: &str) -> Result<f64, String> {
    let trimmed = text.trim();
    let (number, divisor) = match trimmed.strip_suffix('%') {
        Some(number) => (number.trim_end(), 100.0),
        None => (trimmed, 1.0),
    };
    let value = f64::from_str(number).ok().filter(|v| v.is_finite());
    let value =
        value.ok_or_else(|| format!("{text:?} is not a share: write for example 3% or 0.03"))?;
    Ok(value / divisor)
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
}

impl Reader<'_> {
    fn line(&self, at: &Range<usize>) -> usize {
        self.text.get(..at.start).unwrap_or(self.text).matches('\n').count() + 1
    }

    fn error(&self, at: Range<usize>, message: impl Into<String>) -> PolicyError {
        PolicyError { file: self.file.to_owned(), line: self.line(&at), message: message.into() }
    }

    /// A share within these bounds, both left out.
    fn share(&self, raw: &Spanned<Share>, (low, high): (f64, f64)) -> Result<f64, PolicyError> {
        let value = match raw.get_ref() {
            Share::Number(value) => Ok(*value),
            Share::Whole(value) => Ok(*value as f64),
            Share::Text(text) => share(text),
        };
        let value = value.map_err(|message| self.error(raw.span(), message))?;
        match value > low && value < high {
            true => Ok(value),
            false => Err(self.error(
                raw.span(),
                format!(
                    "{} % is out of range: expected more than {} % and less than {} %",
                    value * 100.0,
                    low * 100.0,
                    high * 100.0
                ),
            )),
        }
    }

    fn metric(&self, raw: &Spanned<String>) -> Result<Metric, PolicyError> {
        let name = raw.get_ref();
        let names = || Metric::ALL.iter().map(|m| m.name());
        Metric::ALL.iter().copied().find(|m| m.name() == name).ok_or_else(|| {
            let hint = did_you_mean(name, names());
            self.error(raw.span(), format!("unknown metric {name:?}{hint}"))
        })
    }

    fn pattern(&self, raw: &Spanned<String>) -> Result<Pattern, PolicyError> {
        let text = raw.get_ref();
        let workload = text.split('/').next().unwrap_or_default();
        let known = workload.contains('*') || Workload::ALL.iter().any(|w| w.name() == workload);
        match known {
            true => Ok(Pattern(text.clone())),
            false => {
                let hint = did_you_mean(workload, Workload::ALL.iter().map(|w| w.name()));
                Err(self.error(
                    raw.span(),
                    format!(
                        "no case is called {text:?}: a case is workload/placement, e.g. \"tcp_rr/cross-node\", with * for any characters{hint}"
                    ),
                ))
            }
        }
    }
}

impl Raw {
    fn check(self, reader: &Reader<'_>) -> Result<Policy, PolicyError> {
        let mut policy = Policy::default();
        if let Some(raw) = &self.confidence {
            policy.alpha = 1.0 - reader.share(raw, (0.5, 1.0))?;
        }
        let effect = |raw: &Option<Spanned<Share>>, default: f64| match raw {
            Some(raw) => reader.share(raw, (0.0, 10.0)),
            None => Ok(default),
        };
        policy.min_effect = effect(&self.min_effect, policy.min_effect)?;
        policy.stored_min_effect = effect(&self.stored_min_effect, policy.stored_min_effect)?;
        policy.counted_min_effect = effect(&self.counted_min_effect, policy.counted_min_effect)?;
        for raw in &self.required {
            policy.required.push(reader.pattern(raw)?);
        }
        let RawGates { tcp_stream, tcp_rr, tcp_crr, udp_stream, udp_rr } = self.gates;
        for (workload, names) in [
            (Workload::TcpStream, tcp_stream),
            (Workload::TcpRr, tcp_rr),
            (Workload::TcpCrr, tcp_crr),
            (Workload::UdpStream, udp_stream),
            (Workload::UdpRr, udp_rr),
        ] {
            let Some(names) = names else { continue };
            let mut metrics = Vec::new();
            for raw in &names {
                let metric = reader.metric(raw)?;
                if !measures(workload, metric) {
                    let has = Metric::ALL.iter().filter(|m| measures(workload, **m));
                    let has: Vec<&str> = has.map(|m| m.name()).collect();
                    let message = format!("{workload} has no {metric}; it has {}", has.join(", "));
                    return Err(reader.error(raw.span(), message));
                }
                if metrics.contains(&metric) {
                    return Err(reader.error(raw.span(), format!("{metric} stands here twice")));
                }
                metrics.push(metric);
            }
            policy.gates.retain(|(w, _)| *w != workload);
            policy.gates.push((workload, metrics));
        }
        for raw in &self.rule {
            let rule = raw.get_ref();
            if rule.min_effect.is_none() && rule.allowed_improvement.is_none() {
                let message = "this rule says nothing: give min_effect or allowed_improvement";
                return Err(reader.error(raw.span(), message));
            }
            let size = |raw: &Option<Spanned<Share>>| {
                raw.as_ref().map(|raw| reader.share(raw, (0.0, 10.0))).transpose()
            };
            policy.rules.push(Rule {
                cases: reader.pattern(&rule.cases)?,
                metric: rule.metric.as_ref().map(|raw| reader.metric(raw)).transpose()?,
                min_effect: size(&rule.min_effect)?,
                allowed_improvement: size(&rule.allowed_improvement)?,
                line: reader.line(&raw.span()),
            });
        }
        Ok(policy)
    }
}

/// Has a trial of this workload a value of this metric?
fn measures(workload: Workload, metric: Metric) -> bool {
    use Metric as M;
    match metric {
        M::Throughput | M::CpuPerGigabit | M::InstructionsPerMebibyte => {
            !workload.is_transactional()
        }
        M::PacketRate | M::Reordering | M::Jitter => workload == Workload::UdpStream,
        M::Loss => matches!(workload, Workload::UdpStream | Workload::UdpRr),
        M::Retransmits => matches!(workload, Workload::TcpStream | Workload::TcpRr),
        M::TransactionRate
        | M::LatencyMean
        | M::LatencyP50
        | M::LatencyP90
        | M::LatencyP99
        | M::LatencyP999
        | M::LatencyMax
        | M::CpuPerTransaction
        | M::InstructionsPerTransaction => workload.is_transactional(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> SeriesKey {
        SeriesKey(text.to_owned())
    }

    #[test]
    fn the_printed_example_is_read() {
        let policy = Policy::from_toml("gate.toml", EXAMPLE).unwrap();
        assert_eq!(
            policy.gating(Workload::TcpRr, Clock::Wall),
            [Metric::LatencyP50, Metric::LatencyP99]
        );
        assert_eq!(policy.gating(Workload::UdpStream, Clock::Wall), []);
        assert_eq!(policy.gating(Workload::TcpStream, Clock::Wall), [Metric::Throughput]);
        let series = key("tcp_crr/cross-node");
        assert_eq!(policy.min_effect(&series, Metric::LatencyP50, Between::Pairs), 0.05);
        assert_eq!(policy.min_effect(&key("tcp_rr/x"), Metric::LatencyP99, Between::Pairs), 0.1);
        assert_eq!(policy.min_effect(&key("tcp_rr/x"), Metric::LatencyP50, Between::Pairs), 0.03);
        assert_eq!(policy.min_effect(&key("tcp_rr/x"), Metric::LatencyP50, Between::Times), 0.15);
        let counted = Metric::InstructionsPerTransaction;
        assert_eq!(policy.min_effect(&key("udp_rr/x"), counted, Between::Counts), 0.001);
        assert_eq!(policy.gating(Workload::UdpRr, Clock::Instructions), [counted]);
        assert_eq!(policy.allowed_improvement(&series, Metric::LatencyP50), Some(0.5));
        assert!((policy.alpha - 0.02).abs() < 1e-12);
        assert_eq!(policy.required.len(), 2);
    }

    #[test]
    fn the_policy_of_the_readme_is_read() {
        let readme = include_str!("../../../README.md");
        let after = readme.split_once("A policy says what gates").unwrap().1;
        let text = after.split_once("```toml\n").and_then(|(_, t)| t.split_once("```")).unwrap().0;
        let policy = Policy::from_toml("README.md", text).unwrap();
        let gating = policy.gating(Workload::TcpRr, Clock::Wall);
        assert_eq!(gating, [Metric::LatencyP50, Metric::LatencyP99]);
        assert_eq!(policy.min_effect(&key("tcp_rr/x"), Metric::LatencyP99, Between::Pairs), 0.1);
        assert_eq!(policy.required.len(), 1);
    }

    #[test]
    fn wrong_fields_are_errors_with_their_line() {
        let error = |text: &str| Policy::from_toml("p", text).unwrap_err().to_string();
        for (text, expected) in [
            ("confidence = \"98%\"\nmin_efect = 1", "p:2: unknown field `min_efect`"),
            ("\n\n[gates]\ntcp_r = []", "p:4: unknown field `tcp_r`"),
            (
                "[gates]\ntcp_rr = [\n  \"latency_p5\",\n]",
                "p:3: unknown metric \"latency_p5\"; did",
            ),
            (
                "[gates]\ntcp_stream = [\"latency_p50\"]",
                "p:2: tcp_stream has no latency_p50; it has",
            ),
            ("[gates]\nudp_rr = [\"loss\", \"loss\"]", "p:2: loss stands here twice"),
            ("required = [\n\"tcp_rrr/*\"]", "p:2: no case is called \"tcp_rrr/*\""),
            ("[[rule]]\ncases = \"*\"", "p:1: this rule says nothing"),
            ("[[rule]]\ncases = \"*\"\nmin_effect = \"abc\"", "p:3: \"abc\" is not a share"),
            ("min_effect = \"-3%\"", "p:1: -3 % is out of range"),
            ("confidence = 0.2", "p:1: 20 % is out of range"),
            ("min_effect = []", "p:1: expected a share"),
            ("confidence 3", "p:1: "),
        ] {
            assert!(error(text).starts_with(expected), "{text}\n{}\n{expected}", error(text));
        }
        assert!(error("min_efect = 1").ends_with("did you mean \"min_effect\"?"));
    }

    #[test]
    fn patterns_fit_as_written() {
        for (pattern, series, expected) in [
            ("tcp_rr/cross-node", "tcp_rr/cross-node", true),
            ("tcp_rr/cross-node", "tcp_rr/cross-node/streams=4", false),
            ("tcp_rr/*", "tcp_rr/cross-node/streams=4", true),
            ("*/same-node*", "udp_rr/same-node", true),
            ("*streams=4*", "tcp_stream/cross-node/size=1,streams=4", true),
            ("*rr*", "tcp_stream/cross-node", false),
        ] {
            assert_eq!(Pattern::from(pattern).fits(&key(series)), expected, "{pattern} {series}");
        }
    }

    #[test]
    fn the_last_rule_that_fits_counts() {
        let text = "[[rule]]\ncases = \"*\"\nmin_effect = 0.02\n[[rule]]\ncases = \"tcp_rr/*\"\nmin_effect = \"8%\"\n[[rule]]\ncases = \"tcp_rr/*\"\nallowed_improvement = \"20%\"";
        let policy = Policy::from_toml("p", text).unwrap();
        assert_eq!(policy.min_effect(&key("tcp_rr/x"), Metric::LatencyP50, Between::Times), 0.08);
        assert_eq!(policy.min_effect(&key("udp_rr/x"), Metric::LatencyP50, Between::Pairs), 0.02);
        assert_eq!(policy.rules[1].line, 4);
    }
}
