//! Telling a person how far the run is: a bar on a terminal, plain lines elsewhere.

use crate::{plan::Plan, tell::tell};
use cnibench_model::Case;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::{Duration, Instant};

/// What the runner tells.
pub trait Progress: Send {
    /// Something other than a trial begins.
    fn phase(&mut self, what: &str);
    /// A trial begins.
    fn trial_begins(&mut self, case: &Case, index: u32);
    /// Trials of a case that were to be run at the same time are over: how many of them were
    /// measured, and how many failed or are not going to be run.
    fn trials_over(&mut self, case: &Case, measured: usize, dropped: usize);
    /// Something failed; the run goes on.
    fn trouble(&mut self, text: &str);
    /// The run is over.
    fn finish(&mut self);
}

/// The right one for this standard error.
pub fn for_stderr(plan: &Plan, quiet: bool) -> Box<dyn Progress> {
    use std::io::IsTerminal;
    if quiet {
        Box::new(Quiet)
    } else if std::io::stderr().is_terminal() {
        Box::new(Bar::new(plan))
    } else {
        Box::new(Lines::new(plan))
    }
}

/// Says nothing but trouble.
struct Quiet;

impl Progress for Quiet {
    fn phase(&mut self, _: &str) {}
    fn trial_begins(&mut self, _: &Case, _: u32) {}
    fn trials_over(&mut self, _: &Case, _: usize, _: usize) {}
    fn trouble(&mut self, text: &str) {
        tell(text);
    }
    fn finish(&mut self) {}
}

/// How far the plan is, in seconds of planned measuring, since trials differ in length.
struct Ahead {
    left_s: f64,
}

impl Ahead {
    fn of(plan: &Plan) -> Self {
        Self { left_s: plan.batches().map(|b| Plan::trial_s(&plan.cases[b[0].case])).sum() }
    }
    fn done(&mut self, case: &Case) {
        self.left_s = (self.left_s - Plan::trial_s(case)).max(0.0);
    }
}

fn describe(case: &Case, index: u32) -> String {
    format!(
        "{} {} on {}, trial {} of {}",
        case.workload,
        case.placement,
        case.cni,
        index + 1,
        case.trials
    )
}

/// Seconds as people say them.
pub fn human(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}

/// A bar on a terminal. It is drawn when something changes, never by a ticking thread, which would
/// take CPU time from what is measured.
struct Bar {
    bar: ProgressBar,
    ahead: Ahead,
}

impl Bar {
    fn new(plan: &Plan) -> Self {
        let bar = ProgressBar::with_draw_target(
            Some(plan.schedule.len() as u64),
            ProgressDrawTarget::stderr(),
        );
        if let Ok(style) =
            ProgressStyle::with_template("{bar:24} {pos}/{len}  {prefix:>12} left  {wide_msg}")
        {
            bar.set_style(style);
        }
        let ahead = Ahead::of(plan);
        bar.set_prefix(human(ahead.left_s));
        Self { bar, ahead }
    }
}

impl Progress for Bar {
    fn phase(&mut self, what: &str) {
        self.bar.set_message(what.to_owned());
    }
    fn trial_begins(&mut self, case: &Case, index: u32) {
        self.bar.set_message(describe(case, index));
    }
    fn trials_over(&mut self, case: &Case, measured: usize, dropped: usize) {
        self.ahead.done(case);
        self.bar.set_prefix(human(self.ahead.left_s));
        self.bar.inc((measured + dropped) as u64);
    }
    fn trouble(&mut self, text: &str) {
        self.bar.println(format!("cnibench: {text}"));
    }
    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Plain lines, one every few seconds, for logs.
struct Lines {
    ahead: Ahead,
    done: usize,
    total: usize,
    last: Option<Instant>,
}

impl Lines {
    fn new(plan: &Plan) -> Self {
        Self { ahead: Ahead::of(plan), done: 0, total: plan.schedule.len(), last: None }
    }
}

impl Progress for Lines {
    fn phase(&mut self, what: &str) {
        tell(what);
    }
    fn trial_begins(&mut self, case: &Case, index: u32) {
        if self.last.is_some_and(|at| at.elapsed() < Duration::from_secs(5)) {
            return;
        }
        self.last = Some(Instant::now());
        let left = human(self.ahead.left_s);
        tell(&format!(
            "{} of {} trials done, about {left} left: {}",
            self.done,
            self.total,
            describe(case, index)
        ));
    }
    fn trials_over(&mut self, case: &Case, measured: usize, _: usize) {
        self.done += measured;
        self.ahead.done(case);
    }
    fn trouble(&mut self, text: &str) {
        tell(text);
    }
    fn finish(&mut self) {
        tell(&format!("{} of {} trials done", self.done, self.total));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_people_say_them() {
        assert_eq!(human(8.4), "8 s");
        assert_eq!(human(61.0), "1 min 01 s");
        assert_eq!(human(3720.0), "1 h 02 min");
    }
}
