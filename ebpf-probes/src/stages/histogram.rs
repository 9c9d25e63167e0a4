//! The programs' histograms: exact below 32 ns, then 32 buckets in each doubling up to 2^36 ns.

use cnibench_model::{
    StoredHistogram,
    histogram::{self, HistogramError},
};

const SUB_BITS: u32 = 5;
/// Buckets of one series; `BUCKETS` of the C side.
pub(super) const BUCKETS: usize = 1024;

/// The middle of a bucket, in nanoseconds: at most 1.6 % from what was counted in it.
pub(super) fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let subs = 1 << SUB_BITS;
    if bucket < 2 * subs {
        return bucket;
    }
    let doubling = bucket / subs - 1;
    let low = (subs + bucket % subs) << doubling;
    low + ((1 << doubling) >> 1)
}

/// As the record keeps it.
pub(super) fn stored(counts: &[u64]) -> Result<StoredHistogram, HistogramError> {
    let mut h = histogram::empty();
    for (bucket, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        h.saturating_record_n(middle(bucket).max(histogram::LOWEST), *count);
    }
    StoredHistogram::encode(&h)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `bucket` of the C side.
    fn bucket(ns: u64) -> usize {
        if ns < 32 {
            return ns as usize;
        }
        let e = 63 - ns.leading_zeros();
        if e > 35 {
            return BUCKETS - 1;
        }
        (((e - SUB_BITS + 1) << SUB_BITS) as u64 + ((ns >> (e - SUB_BITS)) & 31)) as usize
    }

    #[test]
    fn a_value_is_close_to_the_middle_of_its_bucket() {
        for ns in (0..100_000).chain([1_234_567, 98_765_432, 34_000_000_000]) {
            let middle = middle(bucket(ns));
            assert!(ns.abs_diff(middle) as f64 <= ns as f64 * 0.016, "{ns} {middle}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn counts_are_kept() {
        let mut counts = vec![0; BUCKETS];
        counts[bucket(700)] = 3;
        counts[bucket(90_000)] = 2;
        counts[0] = 1;
        let h = stored(&counts).unwrap().decode().unwrap();
        assert_eq!(h.len(), 6);
        assert!((690..=712).contains(&h.value_at_quantile(0.5)));
    }
}
