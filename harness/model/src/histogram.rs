//! Latency histograms as they are stored: the standard compressed HdrHistogram encoding (V2, deflate) in base64.
//!
//! Any HdrHistogram tool can read the text; histograms of trials can be merged without loss.

use base64::{Engine, engine::general_purpose::STANDARD};
use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer, V2DeflateSerializer},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Smallest value told apart, in nanoseconds (or instructions).
pub const LOWEST: u64 = 1;
/// Largest value kept: 100 s; longer ones are recorded as this.
pub const HIGHEST: u64 = 100_000_000_000;
/// Significant decimal digits kept at every magnitude.
pub const DIGITS: u8 = 3;

/// A latency histogram in base64 (HdrHistogram V2 compressed). Values are nanoseconds, or
/// instructions where the record's clock says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct StoredHistogram(pub String);

/// Why a stored histogram cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("stored histogram cannot be read: {0}")]
pub struct HistogramError(String);

/// An empty histogram with cnibench's range and precision.
///
/// # Panics
/// Never: the bounds are constants that the histogram accepts.
#[expect(clippy::expect_used, reason = "constant bounds, covered by a test")]
pub fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(LOWEST, HIGHEST, DIGITS).expect("constant bounds are valid")
}

/// An empty one for counts of instructions, which repeat to far less than [`DIGITS`] tell: up to a quarter
/// of a million every value is told from the next, up to the largest (10^8) five digits are.
///
/// # Panics
/// Never, as above.
#[expect(clippy::expect_used, reason = "constant bounds, covered by a test")]
pub fn exact() -> Histogram<u64> {
    Histogram::new_with_bounds(LOWEST, 100_000_000, 5).expect("constant bounds are valid")
}

impl StoredHistogram {
    /// Encodes a histogram.
    ///
    /// # Errors
    /// When the encoder fails, which only counts beyond `i64::MAX` make it do.
    pub fn encode(histogram: &Histogram<u64>) -> Result<Self, HistogramError> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(histogram, &mut bytes)
            .map_err(|e| HistogramError(e.to_string()))?;
        Ok(Self(STANDARD.encode(bytes)))
    }

    /// Decodes it.
    ///
    /// # Errors
    /// When the text is not base64 or not a histogram.
    pub fn decode(&self) -> Result<Histogram<u64>, HistogramError> {
        let bytes = STANDARD.decode(&self.0).map_err(|e| HistogramError(e.to_string()))?;
        Deserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(|e| HistogramError(format!("{e:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_the_encoding() {
        let mut h = empty();
        for v in [1, 900, 20_000, 20_001, 5_000_000, HIGHEST] {
            h.record_n(v, 3).unwrap();
        }
        let back = StoredHistogram::encode(&h).unwrap().decode().unwrap();
        assert_eq!(back.len(), h.len());
        assert_eq!(back.value_at_quantile(0.5), h.value_at_quantile(0.5));
        assert_eq!(back.max(), h.max());
    }

    #[test]
    fn counts_of_instructions_are_told_apart() {
        let mut h = exact();
        for value in [38_559, 38_560, 82_303] {
            h.saturating_record(value);
        }
        h.saturating_record(u64::MAX);
        let back = StoredHistogram::encode(&h).unwrap().decode().unwrap();
        assert_eq!((back.count_at(38_559), back.count_at(38_560)), (1, 1));
        assert_eq!(back.value_at_quantile(0.75), 82_303);
        let mut usual = empty();
        usual.record(5).unwrap();
        usual.add(&back).unwrap();
        assert_eq!(usual.len(), 5);
    }

    #[test]
    fn rubbish_is_an_error() {
        for text in ["", "!!", "AAAA", "HISTFAAAAA=="] {
            assert!(StoredHistogram(text.to_owned()).decode().is_err(), "{text:?}");
        }
    }
}
