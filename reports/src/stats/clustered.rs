//! The change between two arms and how sure it is, where what repeats independently is a rebuild.
//!
//! Owns the estimate and the standard error that the gate judges by; knows no metric, no floor and no
//! verdict. Called by the gate and by calibration.
//!
//! Pairs of one rebuild share what its clusters happened to be like, so n pairs are not n observations.
//! With 3 to 10 rebuilds the usual remedies fail: a percentile bootstrap over clusters is far too narrow
//! (three clusters have ten resamples, and their variance is two thirds of what it should be), and a
//! studentised one divides by zero where a resample has one cluster three times (Cameron, Gelbach &
//! Miller, "Bootstrap-based improvements for inference with clustered errors", 2008, section III). Here:
//!
//! - the estimate is the Hodges-Lehmann one over all pairs, which a stray pair or a second mode moves
//!   little;
//! - its standard error is bootstrapped over whole rebuilds, times sqrt(G / (G - 1)) for G of them
//!   (Davison & Hinkley, *Bootstrap Methods and their Application*, 3.8: resampling whole clusters, and
//!   not pairs within them too, matches the variance), of few rebuilds over every resample there is;
//! - where rebuilds happen to agree better than the noise of their pairs lets them, that of pairs within
//!   rebuilds is taken instead: three rebuilds do so by chance again and again;
//! - the interval is t with G - 1 degrees of freedom (Donald & Lang, "Inference with difference-in-
//!   differences and other panel data", 2007).
//!
//! What calibration knows of this host's rebuilds adds to it as a prior variance with degrees of freedom
//! of its own (Smyth, "Linear models and empirical Bayes methods", 2004), unless these rebuilds are
//! apart by more than it can explain. How all of it holds is simulated in `tests/gate`.

use super::{ranks, sorted};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{ContinuousCDF, FisherSnedecor, StudentsT};

/// Rebuilds up to which all resamples are gone through instead of drawn: 126 of five.
const EXHAUSTIVE: usize = 5;
/// Observations from which on there is an interval.
const ENOUGH: usize = 3;
/// Most degrees of freedom of a prior: what a host was like once says a limited amount of today.
const PRIOR_AT_MOST: f64 = 20.0;
/// A prior is left alone where these rebuilds' variance is larger than it in a way that chance makes
/// less often than this.
const PRIOR_DOUBTED: f64 = 0.05;
/// Deviations of logarithms below this are what arithmetic leaves of none.
const ROUNDING: f64 = 1e-12;
/// Walsh averages up to which a list of them is faster than finding one without.
const LISTED: usize = 2000;

/// How a bootstrap is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resampling {
    /// Resamples of each kind.
    pub resamples: u32,
    /// Seed.
    pub seed: u64,
}

/// What is known beforehand of how far rebuilds are apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prior {
    /// Variance of one rebuild's own estimate.
    pub variance: f64,
    /// Rebuilds it was made of.
    pub degrees_of_freedom: f64,
}

/// A change and how sure it is, on the scale of the observations.
#[derive(Debug, Clone, PartialEq)]
pub struct Clustered {
    /// The change.
    pub estimate: f64,
    /// Of each cluster alone; none of one without an observation.
    pub by_cluster: Vec<Option<f64>>,
    /// Standard error with its degrees of freedom; none where nothing can be said of it.
    pub error: Option<(f64, f64)>,
    /// Observations.
    pub n: usize,
    /// Clusters that have one.
    pub clusters: usize,
}

impl Clustered {
    /// The interval that misses the change with a chance of `alpha`, half of it at either end.
    pub fn interval(&self, alpha: f64) -> Option<(f64, f64)> {
        let (error, freedom) = self.error?;
        let half = if error == 0.0 { 0.0 } else { t_quantile(1.0 - alpha / 2.0, freedom) * error };
        Some((self.estimate - half, self.estimate + half))
    }

    /// The smallest `alpha` whose interval leaves out no change; 1 where there is no interval.
    pub fn p_value(&self) -> f64 {
        match self.error {
            None => 1.0,
            Some(_) if self.estimate == 0.0 => 1.0,
            Some((0.0, _)) => 0.0,
            Some((error, freedom)) => {
                let t = (self.estimate / error).abs();
                StudentsT::new(0.0, 1.0, freedom).map_or(1.0, |d| 2.0 * (1.0 - d.cdf(t)))
            }
        }
    }
}

/// The Hodges-Lehmann estimate: the median of the means of every two values, each with itself too.
pub fn hodges_lehmann(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values.iter().copied());
    (!sorted.is_empty()).then(|| of_sorted(&sorted))
}

fn of_sorted(sorted: &[f64]) -> f64 {
    let averages = sorted.len() * (sorted.len() + 1) / 2;
    if averages <= LISTED {
        let mut all = Vec::with_capacity(averages);
        for (i, a) in sorted.iter().enumerate() {
            all.extend(sorted[i..].iter().map(|b| a.midpoint(*b)));
        }
        let (below, upper, _) = all.select_nth_unstable_by(averages / 2, f64::total_cmp);
        let upper = *upper;
        return match averages % 2 {
            1 => upper,
            _ => below.iter().copied().fold(f64::NEG_INFINITY, f64::max).midpoint(upper),
        };
    }
    super::change::middle(averages, |k| ranks::walsh(sorted, k))
}

/// The change shown by paired differences, in clusters. Of one cluster there is no standard error
/// unless `one_is_enough` (nothing differs from rebuild to rebuild) or a prior says what there is.
pub fn paired(
    clusters: &[Vec<f64>],
    prior: Option<Prior>,
    one_is_enough: bool,
    how: Resampling,
) -> Option<Clustered> {
    let all: Vec<Vec<f64>> = clusters.iter().map(|c| sorted(c.iter().copied())).collect();
    let by_cluster = all.iter().map(|c| (!c.is_empty()).then(|| of_sorted(c))).collect();
    let used: Vec<Vec<f64>> = all.into_iter().filter(|c| !c.is_empty()).collect();
    let n = used.iter().map(Vec::len).sum();
    let estimate = of_sorted(&pooled(&used, 0..used.len())?);
    let mut rng = ChaCha8Rng::seed_from_u64(how.seed);
    let error = (n >= ENOUGH)
        .then(|| {
            let estimator = |sample: &[f64]| of_sorted(sample);
            let within = within(&used, estimate, how.resamples, &mut rng, estimator);
            let between = between(&used, how.resamples, &mut rng, estimator);
            standard_error(used.len(), n, within, between, prior, one_is_enough)
        })
        .flatten();
    Some(Clustered { estimate, by_cluster, error, n, clusters: used.len() })
}

/// The shift from `baseline` to `candidate`, two sides without pairs, each in clusters. Where either
/// side has one cluster only its trials count as independent: nothing is known of another run of it.
pub fn shift(candidate: &[Vec<f64>], baseline: &[Vec<f64>], how: Resampling) -> Option<Clustered> {
    let used = [candidate, baseline].map(|side| -> Vec<Vec<f64>> {
        side.iter().filter(|c| !c.is_empty()).map(|c| sorted(c.iter().copied())).collect()
    });
    let flat = |side: &[Vec<f64>]| pooled(side, 0..side.len());
    let (c, b) = (flat(&used[0])?, flat(&used[1])?);
    let estimate = difference(&c, &b);
    let n = c.len().min(b.len());
    let clusters = used[0].len().min(used[1].len());
    let mut rng = ChaCha8Rng::seed_from_u64(how.seed);
    let error = (n >= ENOUGH).then(|| {
        let whole = clusters >= 2;
        let mut draw = |whole: bool| {
            let values = (0..how.resamples).map(|_| {
                let [c, b] = [&used[0], &used[1]].map(|side| match whole {
                    true => {
                        let picks: Vec<usize> =
                            (0..side.len()).map(|_| rng.random_range(0..side.len())).collect();
                        pooled(side, picks.into_iter()).unwrap_or_default()
                    }
                    false => resampled_within(side, &mut rng),
                });
                difference(&c, &b)
            });
            deviation(&values.map(|v| (v, 1.0)).collect::<Vec<_>>())
        };
        let within = draw(false) * (n as f64 / (n as f64 - 1.0)).sqrt();
        match whole {
            true => {
                let g = clusters as f64;
                (within.max(draw(true) * (g / (g - 1.0)).sqrt()), g - 1.0)
            }
            false => (within, n as f64 - 1.0),
        }
    });
    Some(Clustered { estimate, by_cluster: Vec::new(), error, n, clusters })
}

/// The standard error and its degrees of freedom, of what resampling within and between clusters gave.
fn standard_error(
    clusters: usize,
    n: usize,
    within: f64,
    between: Option<f64>,
    prior: Option<Prior>,
    one_is_enough: bool,
) -> Option<(f64, f64)> {
    let g = clusters as f64;
    let own = match between {
        Some(between) => Some((between.max(within), g - 1.0)),
        None if one_is_enough => Some((within, n as f64 - 1.0)),
        None => None,
    };
    // A prior of identical rebuilds says that nothing ever differs: these rebuilds say it better.
    let Some(prior) = prior.filter(|p| p.variance > 0.0) else { return own };
    let known = prior.variance / g;
    let trusted = prior.degrees_of_freedom.min(PRIOR_AT_MOST);
    let Some((error, freedom)) = own else {
        return Some((known.sqrt().max(within), trusted));
    };
    let ratio = error.powi(2) / known;
    let doubted = FisherSnedecor::new(freedom, prior.degrees_of_freedom)
        .map_or(true, |f| 1.0 - f.cdf(ratio) < PRIOR_DOUBTED);
    if doubted {
        return Some((error, freedom));
    }
    let variance = (trusted * known + freedom * error.powi(2)) / (trusted + freedom);
    Some((variance.sqrt().max(within), trusted + freedom))
}

/// Deviation of the estimate over resamples of pairs within every cluster. Clusters are moved onto
/// the estimate first: what they differ by is not the noise of pairs.
fn within(
    clusters: &[Vec<f64>],
    estimate: f64,
    resamples: u32,
    rng: &mut ChaCha8Rng,
    estimator: impl Fn(&[f64]) -> f64,
) -> f64 {
    let moved: Vec<Vec<f64>> = clusters
        .iter()
        .map(|c| {
            let own = of_sorted(c);
            c.iter().map(|v| v - own + estimate).collect()
        })
        .collect();
    let values = (0..resamples).map(|_| estimator(&resampled_within(&moved, rng)));
    let deviation = deviation(&values.map(|v| (v, 1.0)).collect::<Vec<_>>());
    // A resample of m values has (m - 1) / m of their variance.
    let n: usize = clusters.iter().map(Vec::len).sum();
    let lost = n.saturating_sub(clusters.len()).max(1) as f64;
    deviation * (n as f64 / lost).sqrt()
}

/// Deviation of the estimate over resamples of whole clusters, corrected for their number; none of
/// fewer than two.
fn between(
    clusters: &[Vec<f64>],
    resamples: u32,
    rng: &mut ChaCha8Rng,
    estimator: impl Fn(&[f64]) -> f64,
) -> Option<f64> {
    let g = clusters.len();
    if g < 2 {
        return None;
    }
    let of = |picks: &[usize]| pooled(clusters, picks.iter().copied()).map(|p| estimator(&p));
    let mut weighted: Vec<(f64, f64)> = Vec::new();
    if g <= EXHAUSTIVE {
        let mut picks = vec![0; g];
        loop {
            weighted.extend(of(&picks).map(|v| (v, ways(&picks))));
            // The next sequence that does not descend.
            let Some(place) = picks.iter().rposition(|p| *p + 1 < g) else { break };
            let next = picks[place] + 1;
            picks[place..].fill(next);
        }
    } else {
        for _ in 0..resamples {
            let picks: Vec<usize> = (0..g).map(|_| rng.random_range(0..g)).collect();
            weighted.extend(of(&picks).map(|v| (v, 1.0)));
        }
    }
    Some(deviation(&weighted) * (g as f64 / (g as f64 - 1.0)).sqrt())
}

/// In how many orders these picks can be drawn: a multinomial coefficient.
fn ways(picks: &[usize]) -> f64 {
    let factorial = |n: usize| (1..=n).map(|i| i as f64).product::<f64>();
    let repeats = picks.chunk_by(|a, b| a == b).map(|run| factorial(run.len()));
    factorial(picks.len()) / repeats.product::<f64>()
}

/// All values of these clusters, ascending; none of no value.
fn pooled(clusters: &[Vec<f64>], picks: impl Iterator<Item = usize>) -> Option<Vec<f64>> {
    let mut all: Vec<f64> = picks.flat_map(|i| clusters[i].iter().copied()).collect();
    all.sort_unstable_by(f64::total_cmp);
    (!all.is_empty()).then_some(all)
}

/// As many values of every cluster as it has, drawn with replacement, ascending.
fn resampled_within(clusters: &[Vec<f64>], rng: &mut ChaCha8Rng) -> Vec<f64> {
    let mut all: Vec<f64> = Vec::new();
    for cluster in clusters {
        all.extend((0..cluster.len()).map(|_| cluster[rng.random_range(0..cluster.len())]));
    }
    all.sort_unstable_by(f64::total_cmp);
    all
}

/// The median of the differences of every two values of two ascending lists.
fn difference(c: &[f64], b: &[f64]) -> f64 {
    super::change::middle(c.len() * b.len(), |k| ranks::difference(c, b, k))
}

/// The standard deviation of weighted values; of what differs by rounding alone it is none.
fn deviation(values: &[(f64, f64)]) -> f64 {
    // Counted from the first: of identical values nothing is left over.
    let first = values.first().map_or(0.0, |v| v.0);
    let total: f64 = values.iter().map(|v| v.1).sum();
    let mean = first + values.iter().map(|(v, w)| (v - first) * w).sum::<f64>() / total;
    let variance = values.iter().map(|(v, w)| w * (v - mean).powi(2)).sum::<f64>() / total;
    Some(variance.sqrt()).filter(|d| *d > ROUNDING).unwrap_or(0.0)
}

/// The t below which a share of `probability` lies.
pub(crate) fn t_quantile(probability: f64, degrees_of_freedom: f64) -> f64 {
    if probability >= 1.0 {
        return f64::INFINITY;
    }
    StudentsT::new(0.0, 1.0, degrees_of_freedom)
        .map_or(f64::INFINITY, |t| t.inverse_cdf(probability))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOW: Resampling = Resampling { resamples: 400, seed: 7 };

    #[test]
    fn the_estimate_is_the_median_of_walsh_averages() {
        // 1, 2, 9: averages 1, 1.5, 2, 5, 5.5, 9.
        assert_eq!(hodges_lehmann(&[9.0, 1.0, 2.0]), Some(3.5));
        assert_eq!(hodges_lehmann(&[]), None);
    }

    #[test]
    fn identical_rebuilds_have_no_error_and_are_judged_all_the_same() {
        let same = paired(&vec![vec![0.05; 10]; 3], None, false, HOW).unwrap();
        assert_eq!(same.interval(0.01), Some((0.05, 0.05)));
        assert_eq!(same.p_value(), 0.0);
        let none = paired(&vec![vec![0.0; 10]; 3], None, false, HOW).unwrap();
        assert_eq!((none.interval(0.01), none.p_value()), (Some((0.0, 0.0)), 1.0));
        let one = paired(&[vec![0.05; 4]], None, true, HOW).unwrap();
        assert_eq!(one.interval(0.01), Some((0.05, 0.05)));
    }

    #[test]
    fn one_rebuild_says_nothing_of_rebuilds_unless_calibration_does() {
        let pairs = [vec![0.01, 0.03, 0.02, 0.04]];
        let alone = paired(&pairs, None, false, HOW).unwrap();
        assert_eq!((alone.error, alone.p_value()), (None, 1.0));
        let prior = Prior { variance: 0.02f64.powi(2), degrees_of_freedom: 60.0 };
        let (error, freedom) = paired(&pairs, Some(prior), false, HOW).unwrap().error.unwrap();
        assert!((error - 0.02).abs() < 1e-9 && freedom == PRIOR_AT_MOST, "{error} {freedom}");
    }

    #[test]
    fn rebuilds_that_differ_widen_the_interval_however_many_pairs_they_have() {
        let cluster = |centre: f64| (0..50).map(|i| centre + f64::from(i % 5) * 1e-4).collect();
        let apart = [cluster(0.0), cluster(0.05), cluster(0.10)];
        let (error, freedom) = paired(&apart, None, false, HOW).unwrap().error.unwrap();
        // The centres' deviation is 0.05, that of their mean 0.029.
        assert!((error / 0.0289 - 1.0).abs() < 0.1, "{error}");
        assert_eq!(freedom, 2.0);
        // A prior that says they agree is not believed.
        let prior = Prior { variance: 0.001f64.powi(2), degrees_of_freedom: 60.0 };
        let kept = paired(&apart, Some(prior), false, HOW).unwrap().error.unwrap();
        assert_eq!(kept, (error, freedom));
        // One that says they differ as they do is, and narrows the interval.
        let prior = Prior { variance: 0.05f64.powi(2), degrees_of_freedom: 60.0 };
        let (_, freedom) = paired(&apart, Some(prior), false, HOW).unwrap().error.unwrap();
        assert_eq!(freedom, 22.0);
        let none = Prior { variance: 0.0, degrees_of_freedom: 60.0 };
        let kept = paired(&apart, Some(none), false, HOW).unwrap().error;
        assert_eq!(kept, paired(&apart, None, false, HOW).unwrap().error);
        let sure = paired(&apart, None, false, HOW).unwrap().interval(1e-18).unwrap();
        assert_eq!(sure, (f64::NEG_INFINITY, f64::INFINITY));
    }

    #[test]
    fn all_resamples_of_few_clusters_are_gone_through_once() {
        // Three clusters: 3 of one kind (1 way), 6 of two kinds (3 ways), 1 of three (6 ways).
        assert_eq!((ways(&[1, 1, 1]), ways(&[0, 0, 2]), ways(&[0, 1, 2])), (1.0, 3.0, 6.0));
        let clusters = [vec![1.0], vec![2.0], vec![3.0]];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let exact = between(&clusters, 0, &mut rng, mean).unwrap();
        // Of a mean the bootstrap variance is known: s^2 (n - 1) / n / n, corrected: s^2 / n.
        assert!((exact - (1.0f64 / 3.0).sqrt()).abs() < 1e-12, "{exact}");
    }

    #[test]
    fn a_shift_of_two_sides_is_found_with_and_without_rebuilds() {
        let side = |centre: f64, n: usize| -> Vec<f64> {
            (0..n).map(|i| centre + (i as f64 * 0.618).fract() * 0.02).collect()
        };
        let one = shift(&[side(0.1, 10)], &[side(0.0, 12)], HOW).unwrap();
        assert!((one.estimate - 0.1).abs() < 0.01, "{one:?}");
        assert_eq!((one.n, one.error.unwrap().1), (10, 9.0));
        let (low, _) = one.interval(0.05).unwrap();
        assert!(low > 0.05, "{one:?}");
        let rebuilt =
            shift(&[side(0.1, 5), side(0.12, 5), side(0.08, 5)], &vec![side(0.0, 5); 3], HOW);
        let rebuilt = rebuilt.unwrap();
        assert_eq!(rebuilt.error.unwrap().1, 2.0);
        assert!(rebuilt.interval(0.05).unwrap().0 < low, "{rebuilt:?}");
        assert!(shift(&[], &[side(0.0, 3)], HOW).is_none());
    }
}
