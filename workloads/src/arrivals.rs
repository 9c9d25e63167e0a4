//! What a receiver of numbered datagrams can say: lost, reordered, duplicated, jitter.
//!
//! Owns the accounting on sequence numbers and times only; sockets are `udp_stream`'s.

/// How far back (in sequence numbers) a late datagram is told from a duplicate.
const MEMORY: u64 = 1 << 16;

/// Counts the arrivals of one flow. Sequence numbers start at 0 and are sent in order.
#[derive(Debug, Clone)]
pub struct Arrivals {
    /// One more than the largest number seen: NextExp of RFC 4737, section 3.3.
    next: u64,
    /// One bit for each of the last [`MEMORY`] numbers: seen.
    seen: Vec<u64>,
    counts: Counts,
}

/// What was counted among the datagrams that the sender marked as sent in its window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Arrived, each number once.
    pub received: u64,
    /// Of these, after one with a larger number: type-P-reordered of RFC 4737, section 3.3.
    pub reordered: u64,
    /// Arrived again.
    pub duplicated: u64,
    /// Smallest and largest number that arrived.
    pub range: Option<(u64, u64)>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self { next: 0, seen: vec![0; (MEMORY / 64) as usize], counts: Counts::default() }
    }
}

impl Arrivals {
    /// Notes an arrival; `counts` says whether the sender sent it in its window.
    ///
    /// A number more than 65,536 behind the largest one is taken as late, not as a duplicate.
    #[inline]
    pub fn note(&mut self, sequence: u64, counts: bool) {
        let late = sequence < self.next;
        let duplicate = if late {
            self.next - sequence <= MEMORY && self.is_seen(sequence)
        } else {
            if sequence > self.next {
                self.forget(self.next, sequence);
            }
            self.next = sequence + 1;
            false
        };
        if self.next - sequence <= MEMORY {
            let (word, bit) = Self::place(sequence);
            self.seen[word] |= bit;
        }
        if !counts {
            return;
        }
        let c = &mut self.counts;
        if duplicate {
            c.duplicated += 1;
            return;
        }
        c.received += 1;
        c.reordered += u64::from(late);
        c.range = Some(match c.range {
            None => (sequence, sequence),
            Some((low, high)) => (low.min(sequence), high.max(sequence)),
        });
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn place(sequence: u64) -> (usize, u64) {
        let slot = sequence % MEMORY;
        ((slot / 64) as usize, 1 << (slot % 64))
    }

    fn is_seen(&self, sequence: u64) -> bool {
        let (word, bit) = Self::place(sequence);
        self.seen[word] & bit != 0
    }

    /// Clears the bits of the numbers that a gap skipped.
    #[cold]
    fn forget(&mut self, from: u64, to: u64) {
        if to - from >= MEMORY {
            self.seen.fill(0);
            return;
        }
        for sequence in from..to {
            let (word, bit) = Self::place(sequence);
            self.seen[word] &= !bit;
        }
    }
}

/// Interarrival jitter after RFC 3550, section 6.4.1 and A.8: J += (|D| - J) / 16, where D is the
/// change of transit time from one datagram to the next.
///
/// RFC 3550 reads J whenever a report is due. One reading is a noisy sample of a short memory, so
/// [`Jitter::mean`] is the mean of J over all datagrams of the window that were noted.
///
/// Datagrams that were sent at the same time (a burst, one GSO send) are noted once, by the first
/// that arrives: they have one D among them, and zeros for the others would make J depend on how
/// many datagrams a burst has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Jitter {
    /// Send time and transit of the last one noted.
    last: Option<(u64, i64)>,
    j: f64,
    sum: f64,
    count: u64,
}

impl Jitter {
    /// Notes a datagram's send and arrival time in nanoseconds. The two clocks may differ by a constant.
    #[inline]
    pub fn note(&mut self, sent: u64, arrived: u64, counts: bool) {
        let transit = arrived.wrapping_sub(sent).cast_signed();
        if self.last.is_some_and(|(burst, _)| burst == sent) {
            return;
        }
        if let Some((_, before)) = self.last.replace((sent, transit)) {
            let d = transit.wrapping_sub(before).unsigned_abs() as f64;
            self.j += (d - self.j) / 16.0;
            if counts {
                self.sum += self.j;
                self.count += 1;
            }
        }
    }

    /// J after the last datagram noted, in nanoseconds.
    pub fn last(&self) -> f64 {
        self.j
    }

    /// Mean of J over the window, in nanoseconds; 0 when fewer than two were noted.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts_of(sequences: impl IntoIterator<Item = u64>) -> Counts {
        let mut a = Arrivals::default();
        for s in sequences {
            a.note(s, true);
        }
        a.counts()
    }

    #[test]
    fn in_order_is_neither_late_nor_twice() {
        let c = counts_of(0..200_000);
        assert_eq!(c, Counts { received: 200_000, range: Some((0, 199_999)), ..Counts::default() });
    }

    #[test]
    fn the_example_of_rfc_4737_counts_late_ones() {
        // RFC 4737, section 3.3: only the one that came after larger numbers is reordered.
        let c = counts_of([0, 1, 2, 4, 5, 3, 6]);
        assert_eq!((c.received, c.reordered, c.duplicated), (7, 1, 0));
        let c = counts_of([2, 1, 0]);
        assert_eq!((c.received, c.reordered), (3, 2));
    }

    #[test]
    fn duplicates_count_once_and_are_not_reordered() {
        let c = counts_of([0, 1, 1, 2, 0, 2, 3]);
        assert_eq!((c.received, c.reordered, c.duplicated), (4, 0, 3));
    }

    #[test]
    fn losses_leave_no_trace_but_a_gap() {
        let c = counts_of((0..100_000).filter(|s| s % 10 != 3));
        assert_eq!((c.received, c.reordered, c.duplicated), (90_000, 0, 0));
    }

    #[test]
    fn a_slot_used_again_after_a_wrap_is_not_a_duplicate() {
        // 5 is never sent again, 5 + MEMORY is lost at first and comes late.
        let late = 5 + MEMORY;
        let c = counts_of((0..late).chain([late + 1, late + 2, late, late]));
        assert_eq!((c.reordered, c.duplicated), (1, 1));
        assert_eq!(c.received, late + 3);
    }

    #[test]
    fn a_gap_larger_than_the_memory_forgets_everything() {
        let c = counts_of([0, 1, 2, 10 * MEMORY, 10 * MEMORY - 1, 1]);
        assert_eq!((c.received, c.duplicated), (6, 0));
        assert_eq!(c.reordered, 2);
    }

    #[test]
    fn what_the_sender_did_not_mark_is_not_counted() {
        let mut a = Arrivals::default();
        for s in 0..30 {
            a.note(s, (10..20).contains(&s));
        }
        a.note(15, true);
        assert_eq!(
            a.counts(),
            Counts { received: 10, reordered: 0, duplicated: 1, range: Some((10, 19)) }
        );
    }

    #[test]
    fn jitter_follows_the_formula_of_rfc_3550() {
        let mut j = Jitter::default();
        // Transit 100, 116, 100: D = 16, 16; J = 1, then 1 + 15/16.
        for (sent, arrived) in [(0, 100), (10, 126), (20, 120)] {
            j.note(sent, arrived, true);
        }
        assert!((j.last() - 1.9375).abs() < 1e-12);
        assert!((j.mean() - (1.0 + 1.9375) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn jitter_does_not_depend_on_how_many_datagrams_a_burst_has() {
        let run = |datagrams: usize| {
            let mut j = Jitter::default();
            for i in 0..1_000u64 {
                for _ in 0..datagrams {
                    j.note(i * 1_000, i * 1_000 + (i % 7) * 13, true);
                }
            }
            j.mean()
        };
        assert!(run(1) > 0.0);
        assert!((run(1) - run(54)).abs() < 1e-9);
    }

    #[test]
    fn jitter_does_not_see_the_offset_of_clocks() {
        let run = |offset: u64| {
            let mut j = Jitter::default();
            for i in 0..1_000u64 {
                j.note((i * 1_000).wrapping_add(offset), i * 1_000 + (i % 7) * 13, true);
            }
            j.mean()
        };
        assert!((run(0) - run(u64::MAX - 500)).abs() < 1e-9);
        assert!(run(0) > 0.0);
    }
}
