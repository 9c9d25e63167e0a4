//! Rank statistics: null distributions and order statistics of pairwise means and differences.
//!
//! Owns what the Hodges-Lehmann estimates are made of; the k-th of n^2 pairwise values is found by
//! bisection over counts, so ten thousand samples need no list of fifty million. Called by `change`.

use super::CONFIDENCE;
use statrs::distribution::{ContinuousCDF, Normal};

/// Above this many steps of the exact distribution the normal approximation is used; its error is
/// far below what an interval's end means by then.
const EXACT_STEPS: usize = 6000;

/// Largest c with P(W <= c) <= 2.5 % for the signed-rank statistic of n values; none when even
/// W = 0 is too likely (n below 6), so that no 95 % interval exists.
pub(super) fn signed_rank_cut(n: usize) -> Option<usize> {
    let top = n * (n + 1) / 2;
    if top > EXACT_STEPS {
        let n = n as f64;
        return Some(normal_cut(n * (n + 1.0) / 4.0, n * (n + 1.0) * (2.0 * n + 1.0) / 24.0));
    }
    // Ways to reach each sum with ranks 1..n, each in or out, as probabilities.
    let mut ways = vec![0.0f64; top + 1];
    ways[0] = 1.0;
    for rank in 1..=n {
        for sum in (0..=top).rev() {
            let with = if sum >= rank { ways[sum - rank] } else { 0.0 };
            ways[sum] = (ways[sum] + with) / 2.0;
        }
    }
    largest_within_tail(&ways)
}

/// Largest c with P(U <= c) <= 2.5 % for the rank-sum (Mann-Whitney) statistic of n and m values.
pub(super) fn rank_sum_cut(n: usize, m: usize) -> Option<usize> {
    let top = n * m;
    if top > EXACT_STEPS {
        let (n, m) = (n as f64, m as f64);
        return Some(normal_cut(n * m / 2.0, n * m * (n + m + 1.0) / 12.0));
    }
    // The generating function of U is the Gaussian binomial: a product of (1 - q^(m+i)) / (1 - q^i).
    let mut ways = vec![0.0f64; top + 1];
    ways[0] = 1.0;
    for i in 1..=n {
        for u in (m + i..=top).rev() {
            ways[u] -= ways[u - m - i];
        }
        for u in i..=top {
            ways[u] += ways[u - i];
        }
    }
    let total: f64 = ways.iter().sum();
    for way in &mut ways {
        *way /= total;
    }
    largest_within_tail(&ways)
}

fn largest_within_tail(probabilities: &[f64]) -> Option<usize> {
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let mut cumulative = 0.0;
    let beyond = probabilities.iter().position(|p| {
        cumulative += p;
        cumulative > tail
    });
    beyond.and_then(|c| c.checked_sub(1))
}

fn normal_cut(mean: f64, variance: f64) -> usize {
    let z = Normal::standard().inverse_cdf((1.0 - CONFIDENCE) / 2.0);
    (mean + z * variance.sqrt() - 0.5).floor().max(0.0) as usize
}

/// The k-th smallest (from 1) mean of two of the ascending values, each value with itself too
/// (Walsh averages).
pub(super) fn walsh(sorted: &[f64], k: usize) -> f64 {
    let (Some(&low), Some(&high)) = (sorted.first(), sorted.last()) else { return f64::NAN };
    bisect(low, high, |v| {
        let mut count = 0;
        let mut j = sorted.len();
        for (i, a) in sorted.iter().enumerate() {
            while j > 0 && (a + sorted[j - 1]) / 2.0 > v {
                j -= 1;
            }
            if j <= i {
                break;
            }
            count += j - i;
        }
        count >= k
    })
}

/// The k-th smallest (from 1) difference `a - b` over all pairs of the ascending values.
pub(super) fn difference(a: &[f64], b: &[f64], k: usize) -> f64 {
    let (Some(a0), Some(a1), Some(b0), Some(b1)) = (a.first(), a.last(), b.first(), b.last())
    else {
        return f64::NAN;
    };
    bisect(a0 - b1, a1 - b0, |v| {
        let mut count = 0;
        let mut j = 0;
        for x in a {
            while j < b.len() && x - b[j] > v {
                j += 1;
            }
            count += b.len() - j;
        }
        count >= k
    })
}

/// The smallest value at which `reached` turns true, to the last few bits.
fn bisect(mut low: f64, mut high: f64, reached: impl Fn(f64) -> bool) -> f64 {
    if reached(low) {
        return low;
    }
    for _ in 0..80 {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        if reached(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}

/// The rank of every value from 1, the mean of their places where values are equal.
pub(crate) fn midranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for tied in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let middle = start as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|i| ranks[*i] = middle);
        start += tied.len();
    }
    ranks
}

/// Probability that `own` of `all` values have a sum of ranks of at least `sum` by chance
/// (Mann-Whitney, one-sided, normal approximation with its continuity correction).
pub(crate) fn rank_sum_tail(sum: f64, own: usize, all: usize) -> f64 {
    let (n, m) = (own as f64, all.saturating_sub(own) as f64);
    let deviation = (n * m * (n + m + 1.0) / 12.0).sqrt();
    if deviation == 0.0 {
        return 1.0;
    }
    let z = (sum - n * (n + m + 1.0) / 2.0 - 0.5) / deviation;
    Normal::new(0.0, 1.0).map_or(1.0, |normal| normal.sf(z))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_equal_values_are_shared() {
        assert_eq!(midranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert!(midranks(&[]).is_empty());
        // Six values above six others: 1 of 924 ways; the approximation says 0.0025.
        assert!((rank_sum_tail(57.0, 6, 12) - 0.0025).abs() < 0.0005);
        assert!((rank_sum_tail(39.0, 6, 12) - 0.53).abs() < 0.01);
        assert_eq!(rank_sum_tail(10.0, 4, 4), 1.0);
    }

    use proptest::prelude::*;

    #[test]
    fn cuts_are_those_of_the_tables() {
        // Signed rank, two-sided 5 %: 6 -> 0, 7 -> 2, 8 -> 3, 10 -> 8, 20 -> 52, 30 -> 137.
        assert_eq!(signed_rank_cut(5), None);
        for (n, cut) in [(6, 0), (7, 2), (8, 3), (10, 8), (20, 52), (30, 137)] {
            assert_eq!(signed_rank_cut(n), Some(cut), "n = {n}");
        }
        // Mann-Whitney, two-sided 5 %: (3,3) none, (4,4) -> 0, (5,5) -> 2, (10,10) -> 23, (20,20) -> 127.
        assert_eq!(rank_sum_cut(3, 3), None);
        for (n, m, cut) in [(4, 4, 0), (5, 5, 2), (5, 8, 6), (10, 10, 23), (20, 20, 127)] {
            assert_eq!(rank_sum_cut(n, m), Some(cut), "{n}, {m}");
        }
    }

    #[test]
    fn the_approximation_meets_the_exact_cut() {
        let exact = signed_rank_cut(109).unwrap() as f64;
        let n = 109.0;
        let near = normal_cut(n * (n + 1.0) / 4.0, n * (n + 1.0) * (2.0 * n + 1.0) / 24.0) as f64;
        assert!((exact - near).abs() <= 8.0, "{exact} {near}");
    }

    proptest! {
        #[test]
        fn the_kth_is_that_of_the_whole_list(values in prop::collection::vec(-1e3..1e3f64, 1..25), other in prop::collection::vec(-1e3..1e3f64, 1..25), pick in 0.0..1.0f64) {
            let (mut a, mut b) = (values, other);
            a.sort_by(f64::total_cmp);
            b.sort_by(f64::total_cmp);
            let mut means = Vec::new();
            for i in 0..a.len() { for j in i..a.len() { means.push((a[i] + a[j]) / 2.0); } }
            means.sort_by(f64::total_cmp);
            let k = (pick * means.len() as f64) as usize;
            prop_assert!((walsh(&a, k + 1) - means[k]).abs() < 1e-9);
            let mut differences: Vec<f64> = a.iter().flat_map(|x| b.iter().map(move |y| x - y)).collect();
            differences.sort_by(f64::total_cmp);
            let k = (pick * differences.len() as f64) as usize;
            prop_assert!((difference(&a, &b, k + 1) - differences[k]).abs() < 1e-9);
        }
    }
}
