//! The client's loop of every transactional workload: closed, or open at a rate.
//!
//! Closed loop: one clock read a transaction, the end of one being the start of the next. Open
//! loop: an absolute schedule; latency counts from the *intended* send time, so a stalled server
//! is charged for every request that it kept from being sent (Tene's "coordinated omission").
//! Transactions of a flow stay strictly one after the other, as in wrk2: what falls behind is sent
//! as soon as the one before is answered. Between two, a flow that has a CPU to itself sleeps and
//! then spins, and reports what it spun, which is no cost of the path.

use crate::{
    along::Along,
    clock::{self, Alarm, Schedule, Wait},
    counted::Count,
    cpus,
    error::TrialError,
    flow::{Lane, Tally},
    meter::{Meter, Timeline},
    protocol::Task,
};
use cnibench_model::histogram;
use hdrhistogram::Histogram;

/// How one exchange went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchanged {
    /// Answered.
    Done,
    /// Not answered in time (datagrams); the next one goes on.
    Lost,
    /// The trial was stopped.
    Stopped,
}

/// The key under which the options of a flow tell how it was paced.
const LOOP: &str = "loop";
/// The key under which they tell the CPU time that it spun away in the window, in nanoseconds.
pub(crate) const SPUN_NS: &str = "spun_ns";
/// The key under which they tell how late a flow that does not spin woke up, in nanoseconds.
const WOKEN_LATE_NS: &str = "woken_late_ns";
/// The key under which they tell how many transactions were due in the window and never sent.
const UNSENT: &str = "unsent";

/// Runs transactions from the go to the end of the window.
pub(crate) fn transact(
    task: &Task,
    flow: u32,
    lane: Lane<'_>,
    mut exchange: impl FnMut() -> Result<Exchanged, TrialError>,
) -> Result<Tally, TrialError> {
    let mut book = Book::new(wait(task), task);
    let Some(timeline) = lane.start() else { return Ok(Tally::default()) };
    if let Some(count) = task.count {
        let count = count.of_flow(task.params.streams);
        let span = counted(&mut book, count, lane, &mut exchange)?;
        return Ok(book.counted(task, count, span));
    }
    let mut meter = Meter::new(timeline);
    match task.params.rate {
        None => closed(&mut book, &mut meter, timeline, lane, &mut exchange)?,
        Some(rate) => {
            let streams = f64::from(task.params.streams);
            book.along = Along::new(timeline, rate.0 / streams);
            let schedule =
                Schedule::new(timeline.start, rate.0 / streams, f64::from(flow) / streams);
            open(&mut book, &mut meter, timeline, lane, schedule, &mut exchange)?;
        }
    }
    Ok(book.close(task, meter))
}

/// Spinning is for a flow that has its CPU to itself; where flows share one, it would take the
/// CPU from the others just when they are due.
fn wait(task: &Task) -> Wait {
    let cpus = match task.client_cpus.len() {
        // Unpinned: the server may want as many.
        0 => cpus::allowed().len() / 2,
        pinned => pinned,
    };
    if task.params.streams as usize <= cpus { Wait::Spin } else { Wait::Sleep }
}

struct Book {
    /// None where no latencies are asked for.
    histogram: Option<Histogram<u64>>,
    total: u64,
    lost: u64,
    unsent: u64,
    wait: Wait,
    alarm: Alarm,
    /// Where requests are due at times: what those of each interval met.
    along: Along,
    /// Spun inside the window, in nanoseconds.
    spun: u64,
}

impl Book {
    fn new(wait: Wait, task: &Task) -> Self {
        let empty = if task.count.is_some() { histogram::exact } else { histogram::empty };
        Self {
            histogram: task.latencies.then(empty),
            total: 0,
            lost: 0,
            unsent: 0,
            wait,
            alarm: Alarm::new(wait),
            along: Along::default(),
            spun: 0,
        }
    }

    #[inline]
    fn record(&mut self, nanos: u64) {
        if let Some(histogram) = &mut self.histogram {
            // Longer than the range counts as the longest; the range is 100 s.
            histogram.saturating_record(nanos);
        }
    }

    /// What was done in a window of so many transactions; none was, where the trial was stopped.
    fn counted(self, task: &Task, count: Count, span: Option<(u64, u64)>) -> Tally {
        let Some(span) = span else { return Tally::default() };
        let done = count.measured;
        let sent = done + self.lost;
        Tally {
            transactions: done,
            received: done,
            sent,
            sent_bytes: sent * task.params.size,
            received_bytes: done * task.params.response_size,
            slices: vec![done],
            histogram: self.histogram,
            span: Some(span),
            options: [(LOOP.to_owned(), "closed, counted".to_owned())].into(),
            ..Tally::default()
        }
    }

    fn close(self, task: &Task, meter: Meter) -> Tally {
        let slices = meter.finish();
        let done: u64 = slices.iter().sum();
        let mut tally = Tally {
            transactions: done,
            received: done,
            sent: done + self.lost,
            sent_bytes: (done + self.lost) * task.params.size,
            received_bytes: done * task.params.response_size,
            slices,
            histogram: self.histogram,
            along: self.along,
            ..Tally::default()
        };
        let how = match (task.params.rate, self.wait) {
            (None, _) => "closed",
            (Some(_), Wait::Spin) => "open, sleep and spin",
            (Some(_), Wait::Sleep) => "open, sleep",
        };
        tally.options.insert(LOOP.to_owned(), how.to_owned());
        if task.params.rate.is_some() {
            tally.options.insert(SPUN_NS.to_owned(), self.spun.to_string());
            if self.wait == Wait::Sleep {
                let late = self.alarm.lateness().round();
                tally.options.insert(WOKEN_LATE_NS.to_owned(), late.to_string());
                tally.warnings.push(
                    "more flows than CPUs, so paced flows do not spin: that they wake up late is \
                     part of the latencies"
                        .to_owned(),
                );
            }
        }
        if self.unsent > 0 {
            tally.options.insert(UNSENT.to_owned(), self.unsent.to_string());
            tally.warnings.push(
                "transactions were due in the window and could not be sent before its end; they \
                 are in the histogram with their delay until then, which is less than their latency"
                    .to_owned(),
            );
        }
        tally
    }
}

/// So many transactions one after the other; when the window began and ended.
fn counted(
    book: &mut Book,
    count: Count,
    lane: Lane<'_>,
    exchange: &mut impl FnMut() -> Result<Exchanged, TrialError>,
) -> Result<Option<(u64, u64)>, TrialError> {
    while book.total < count.warmup {
        match exchange()? {
            Exchanged::Done => book.total += 1,
            Exchanged::Lost => {}
            Exchanged::Stopped => return Ok(None),
        }
        lane.moved(book.total);
    }
    let opened = clock::now();
    let mut begun = opened;
    while book.total < count.warmup + count.measured {
        let outcome = exchange()?;
        let now = clock::now();
        match outcome {
            Exchanged::Done => {
                book.record(now - begun);
                book.total += 1;
                lane.moved(book.total);
            }
            Exchanged::Lost => book.lost += 1,
            Exchanged::Stopped => return Ok(None),
        }
        begun = now;
    }
    Ok(Some((opened, begun)))
}

fn closed(
    book: &mut Book,
    meter: &mut Meter,
    timeline: Timeline,
    lane: Lane<'_>,
    exchange: &mut impl FnMut() -> Result<Exchanged, TrialError>,
) -> Result<(), TrialError> {
    let mut begun = clock::now();
    while begun < timeline.close {
        let outcome = exchange()?;
        let now = clock::now();
        match outcome {
            Exchanged::Done => {
                if meter.add(now, 1) {
                    book.record(now - begun);
                }
                book.total += 1;
                lane.moved(book.total);
            }
            // By when it began: the wait for its answer may outlast the window.
            Exchanged::Lost => book.lost += u64::from(timeline.measures(begun)),
            Exchanged::Stopped => break,
        }
        begun = now;
    }
    Ok(())
}

fn open(
    book: &mut Book,
    meter: &mut Meter,
    timeline: Timeline,
    lane: Lane<'_>,
    mut schedule: Schedule,
    exchange: &mut impl FnMut() -> Result<Exchanged, TrialError>,
) -> Result<(), TrialError> {
    loop {
        let intended = schedule.due();
        if intended >= timeline.close {
            // Leaving early would end the server's window before it is over.
            Alarm::new(Wait::Sleep).wait_until(timeline.close, |_| lane.stopped());
            return Ok(());
        }
        let spun = book.alarm.spun();
        if book.alarm.wait_until(intended, |_| lane.stopped()) < intended {
            return Ok(());
        }
        if intended >= timeline.open {
            book.spun += book.alarm.spun() - spun;
        }
        let outcome = exchange()?;
        let now = clock::now();
        match outcome {
            Exchanged::Done => {
                meter.add(now, 1);
                if intended >= timeline.open {
                    book.record(now - intended);
                    book.along.note(intended, Some(now - intended));
                }
                book.total += 1;
                lane.moved(book.total);
            }
            Exchanged::Lost => {
                book.lost += u64::from(timeline.measures(intended));
                book.along.note(intended, None);
            }
            Exchanged::Stopped => return Ok(()),
        }
        schedule.advance();
        if now >= timeline.close {
            break;
        }
    }
    // What was due and never sent would be missing just where latency is worst.
    while schedule.due() < timeline.close {
        if schedule.due() >= timeline.open {
            let waited = timeline.close - schedule.due();
            book.record(waited);
            book.along.note(schedule.due(), Some(waited));
            book.unsent += 1;
        }
        schedule.advance();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::SECOND, flow::Gate, reins::Reins};
    use cnibench_model::{Rate, Workload};
    use std::sync::atomic::AtomicU64;

    /// Runs a flow of transactions that take no time, but for one that stalls for 200 ms.
    fn with_a_stall(rate: Option<f64>) -> Tally {
        let mut params = Workload::TcpRr.defaults();
        params.rate = rate.map(Rate);
        let task = Task {
            workload: Workload::TcpRr,
            params,
            duration_s: 0.6,
            warmup_s: 0.05,
            client_cpus: vec![],
            server_cpus: vec![],
            patience_s: 1.0,
            canary: vec![],
            latencies: true,
            count: None,
        };
        let (gate, progress, reins) = (Gate::default(), AtomicU64::new(0), Reins::default());
        let start = clock::now();
        gate.open(Timeline::new(start, task.warmup_s, task.duration_s));
        let mut stalled = false;
        transact(&task, 0, Lane { gate: &gate, progress: &progress, reins: &reins }, || {
            if !stalled && clock::now() > start + SECOND / 4 {
                stalled = true;
                clock::sleep_until(clock::now() + SECOND / 5);
            }
            Ok(Exchanged::Done)
        })
        .unwrap()
    }

    #[test]
    fn an_open_loop_charges_a_stall_for_all_that_it_kept_waiting() {
        let tally = with_a_stall(Some(1_000.0));
        let h = tally.histogram.unwrap();
        assert!(h.max() >= 200_000_000, "{}", h.max());
        // 1000/s for 200 ms: 200 requests were due, half of them waited 100 ms or more.
        let slow = h.count_between(100_000_000, u64::MAX);
        assert!((60..=300).contains(&slow), "{slow}");
        assert_eq!(h.len(), 600);
    }

    #[test]
    fn a_closed_loop_sees_the_same_stall_once() {
        let h = with_a_stall(None).histogram.unwrap();
        assert!(h.max() >= 200_000_000);
        let slow = h.count_between(100_000_000, u64::MAX);
        assert!((1..=5).contains(&slow), "{slow}");
    }

    #[test]
    fn a_counted_flow_does_what_it_was_told_and_no_more() {
        let count = Some(Count { warmup: 50, measured: 400 });
        let params = Workload::TcpRr.defaults();
        let mut task = Task {
            workload: Workload::TcpRr,
            params,
            duration_s: 0.2,
            warmup_s: 0.0,
            client_cpus: vec![],
            server_cpus: vec![],
            patience_s: 1.0,
            canary: vec![],
            latencies: true,
            count,
        };
        task.params.streams = 2;
        let (gate, progress, reins) = (Gate::default(), AtomicU64::new(0), Reins::default());
        gate.open(Timeline::new(clock::now(), 0.0, task.duration_s));
        let lane = Lane { gate: &gate, progress: &progress, reins: &reins };
        let mut asked = 0;
        let tally = transact(&task, 0, lane, || {
            asked += 1;
            // One of the warm-up and one of the window is lost.
            Ok(if asked == 3 || asked == 100 { Exchanged::Lost } else { Exchanged::Done })
        })
        .unwrap();
        assert_eq!((asked, tally.transactions, tally.sent), (25 + 200 + 2, 200, 201));
        let (opened, closed) = tally.span.unwrap();
        let h = tally.histogram.unwrap();
        assert_eq!(h.len(), 200);
        assert!(opened < closed && h.max() <= closed - opened);
    }

    #[test]
    fn what_could_not_be_sent_is_in_the_histogram_and_warned_about() {
        // Every exchange takes 10 ms, 1000/s are asked.
        let mut params = Workload::TcpRr.defaults();
        params.rate = Some(Rate(1_000.0));
        let task = Task {
            workload: Workload::TcpRr,
            params,
            duration_s: 0.2,
            warmup_s: 0.0,
            client_cpus: vec![],
            server_cpus: vec![],
            patience_s: 1.0,
            canary: vec![],
            latencies: true,
            count: None,
        };
        let (gate, progress, reins) = (Gate::default(), AtomicU64::new(0), Reins::default());
        gate.open(Timeline::new(clock::now(), 0.0, task.duration_s));
        let lane = Lane { gate: &gate, progress: &progress, reins: &reins };
        let tally = transact(&task, 0, lane, || {
            clock::sleep_until(clock::now() + SECOND / 100);
            Ok(Exchanged::Done)
        })
        .unwrap();
        assert!(tally.transactions <= 20, "{}", tally.transactions);
        let h = tally.histogram.unwrap();
        assert_eq!(h.len(), 200);
        assert_eq!(tally.warnings.len(), 1);
    }
}
