//! Metrics, their units and which way is better.
//!
//! Direction belongs to the metric: nothing else in cnibench decides whether more is good.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the time values of a record count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// Nanoseconds of the machine's monotonic clock.
    Wall,
    /// Guest instructions (an emulated machine whose clock counts them).
    Instructions,
}

impl Clock {
    /// The word used in records, tables and captions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wall => "wall",
            Self::Instructions => "instructions",
        }
    }
}

/// Which way a metric improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// A larger value is better, e.g. throughput.
    HigherIsBetter,
    /// A smaller value is better, e.g. latency.
    LowerIsBetter,
}

/// The unit in which a metric's values are stored. Prefixes (k, M, G, µ) are chosen for display.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bits of application payload per second.
    BitsPerSecond,
    /// Transactions per second (for `tcp_crr`, whole connections).
    TransactionsPerSecond,
    /// UDP payloads per second.
    PacketsPerSecond,
    /// Nanoseconds, or instructions where the record's clock says so.
    Nanoseconds,
    /// A share between 0 and 1.
    Ratio,
    /// A plain count.
    Count,
    /// CPU-seconds for each 10^9 bits of payload.
    CpuSecondsPerGigabit,
    /// CPU-seconds for each transaction.
    CpuSecondsPerTransaction,
    /// Instructions.
    Instructions,
}

impl Unit {
    /// The symbol of values that were taken by this clock, of which 10^9 instructions are a second.
    pub fn symbol_by(self, clock: Clock) -> &'static str {
        match (clock, self) {
            (Clock::Instructions, Self::Nanoseconds) => "instructions",
            (Clock::Instructions, Self::BitsPerSecond) => "bit/10^9 instructions",
            (Clock::Instructions, Self::TransactionsPerSecond) => "transactions/10^9 instructions",
            (Clock::Instructions, Self::PacketsPerSecond) => "packets/10^9 instructions",
            _ => self.symbol(),
        }
    }

    /// The symbol without prefix, as captions and table heads show it, of a wall clock.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::BitsPerSecond => "bit/s",
            Self::TransactionsPerSecond => "transactions/s",
            Self::PacketsPerSecond => "packets/s",
            Self::Nanoseconds => "ns",
            Self::Ratio => "ratio",
            Self::Count => "count",
            Self::CpuSecondsPerGigabit => "CPU s/Gbit",
            Self::CpuSecondsPerTransaction => "CPU s/transaction",
            Self::Instructions => "instructions",
        }
    }
}

macro_rules! metrics {
    ($( $(#[doc = $doc:expr])+ $variant:ident = $name:literal, $unit:ident, $direction:ident, $label:literal; )+) => {
        /// One kind of measured value.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum Metric {
            $( $(#[doc = $doc])+ #[serde(rename = $name)] $variant, )+
        }
        impl Metric {
            /// Every metric, in the order in which tables show them.
            pub const ALL: &'static [Metric] = &[$(Metric::$variant),+];
            /// The stable name used in records, CSV and on the command line.
            pub fn name(self) -> &'static str { match self { $(Self::$variant => $name),+ } }
            /// The unit of stored values.
            pub fn unit(self) -> Unit { match self { $(Self::$variant => Unit::$unit),+ } }
            /// Which way the metric improves.
            pub fn direction(self) -> Direction { match self { $(Self::$variant => Direction::$direction),+ } }
            /// A short name for people, e.g. "latency p99".
            pub fn label(self) -> &'static str { match self { $(Self::$variant => $label),+ } }
            /// One line that says what is measured and where.
            pub fn describe(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii()),+ }
            }
        }
    };
}

metrics! {
    /// Application payload that arrived at the receiver, per second of its measured window.
    Throughput = "throughput", BitsPerSecond, HigherIsBetter, "throughput";
    /// Completed request/response exchanges per second; for tcp_crr each includes connect and close.
    TransactionRate = "transaction_rate", TransactionsPerSecond, HigherIsBetter, "transaction rate";
    /// Mean time of one transaction, from the (intended) send to the whole response.
    LatencyMean = "latency_mean", Nanoseconds, LowerIsBetter, "latency mean";
    /// Median time of one transaction; like every percentile left out when fewer than 10 lie beyond it.
    LatencyP50 = "latency_p50", Nanoseconds, LowerIsBetter, "latency p50";
    /// 90th percentile of the time of one transaction.
    LatencyP90 = "latency_p90", Nanoseconds, LowerIsBetter, "latency p90";
    /// 99th percentile of the time of one transaction.
    LatencyP99 = "latency_p99", Nanoseconds, LowerIsBetter, "latency p99";
    /// 99.9th percentile of the time of one transaction.
    LatencyP999 = "latency_p999", Nanoseconds, LowerIsBetter, "latency p99.9";
    /// Longest transaction seen.
    LatencyMax = "latency_max", Nanoseconds, LowerIsBetter, "latency max";
    /// Datagrams that arrived at the receiver, per second of its measured window.
    PacketRate = "packet_rate", PacketsPerSecond, HigherIsBetter, "packet rate";
    /// Datagrams sent in the measured window that never arrived, as a share of those sent.
    Loss = "loss", Ratio, LowerIsBetter, "loss";
    /// Datagrams that arrived after one sent later, as a share of those received (RFC 4737 type-P-reordered).
    Reordering = "reordering", Ratio, LowerIsBetter, "reordering";
    /// Interarrival jitter of datagrams (RFC 3550, section 6.4.1), of bursts where they are sent in bursts; mean over flows.
    Jitter = "jitter", Nanoseconds, LowerIsBetter, "jitter";
    /// TCP segments sent again in the measured window, all flows of the sender.
    Retransmits = "retransmits", Count, LowerIsBetter, "retransmits";
    /// CPU time of all measured nodes (user, system, softirq, interrupts, kernel threads) for each Gbit of payload.
    CpuPerGigabit = "cpu_per_gigabit", CpuSecondsPerGigabit, LowerIsBetter, "CPU per Gbit";
    /// CPU time of all measured nodes (user, system, softirq, interrupts, kernel threads) for each transaction.
    CpuPerTransaction = "cpu_per_transaction", CpuSecondsPerTransaction, LowerIsBetter, "CPU per transaction";
    /// Instructions of the whole guest, kernel and both ends, from the first of an exact number of transactions to the end of the last, for each of them.
    InstructionsPerTransaction = "instructions_per_transaction", Instructions, LowerIsBetter, "instructions per transaction";
    /// Instructions of the whole guest, kernel and both ends, from the first write of an exact number of bytes until the receiver has said that it has them all, for each MiB.
    InstructionsPerMebibyte = "instructions_per_mebibyte", Instructions, LowerIsBetter, "instructions per MiB";
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_name_is_the_serde_name() {
        for metric in Metric::ALL {
            let json = serde_json::to_string(metric).unwrap();
            assert_eq!(json, format!("\"{}\"", metric.name()));
        }
    }

    #[test]
    fn no_unit_of_counted_instructions_is_a_time() {
        for metric in Metric::ALL {
            let unit = metric.unit();
            let symbol = unit.symbol_by(Clock::Instructions);
            let cpu = matches!(unit, Unit::CpuSecondsPerGigabit | Unit::CpuSecondsPerTransaction);
            // CPU seconds are left out of such records.
            assert!(cpu || !(symbol == "ns" || symbol.ends_with("/s")), "{metric}: {symbol}");
            assert_eq!(unit.symbol_by(Clock::Wall), unit.symbol());
        }
    }

    #[test]
    fn only_rates_improve_upwards() {
        for metric in Metric::ALL {
            let is_rate = matches!(
                metric.unit(),
                Unit::BitsPerSecond | Unit::TransactionsPerSecond | Unit::PacketsPerSecond
            );
            assert_eq!(is_rate, metric.direction() == Direction::HigherIsBetter, "{metric}");
        }
    }
}
