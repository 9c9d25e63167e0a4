//! Durations, sizes and rates as people write them: `350ms`, `128KiB`, `2.5Gbit`, `20k`.

use cnibench_model::Rate;

/// Splits "12.5abc" into its number and suffix.
fn split(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let value: f64 =
        number.parse().map_err(|_| format!("{text:?} does not begin with a number"))?;
    Ok((value, suffix.trim()))
}

/// Seconds from `2`, `2s`, `350ms`, `1m`, `1h`.
///
/// # Errors
/// A sentence that says what was expected.
pub fn seconds(text: &str) -> Result<f64, String> {
    let (value, suffix) = split(text)?;
    // Divided, not multiplied by 0.001, so that 350ms is exactly the number 0.35.
    let seconds = match suffix {
        "" | "s" => value,
        "ms" => value / 1e3,
        "m" | "min" => value * 60.0,
        "h" => value * 3600.0,
        _ => return Err(format!("{text:?} is not a duration: write for example 350ms, 2s or 1m")),
    };
    Ok(seconds)
}

/// Bytes from `1400`, `64KiB`, `1MiB`, `10kB`, `1MB`.
///
/// # Errors
/// A sentence that says what was expected.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (value, suffix) = split(text)?;
    let unit = match suffix {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "K" | "KiB" => 1024.0,
        "M" | "MiB" => 1024.0 * 1024.0,
        _ => return Err(format!("{text:?} is not a size: write for example 1400, 128KiB or 1MiB")),
    };
    let total = value * unit;
    if total.fract() == 0.0 && total <= 1e12 {
        Ok(total as u64)
    } else {
        Err(format!("{text:?} is not a whole number of bytes"))
    }
}

/// A rate from `max` (none), `20000`, `20k`, `1Gbit`, `2.5Gbit/s`: transactions per second, or for
/// streams bits per second.
///
/// # Errors
/// A sentence that says what was expected.
pub fn rate(text: &str) -> Result<Option<Rate>, String> {
    if text == "max" {
        return Ok(None);
    }
    let (value, suffix) = split(text)?;
    let unit = match suffix.trim_end_matches("/s").trim_end_matches("bit") {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => {
            return Err(format!(
                "{text:?} is not a rate: write max, 20k (transactions/s) or 2.5Gbit (payload of a stream)"
            ));
        }
    };
    let total = value * unit;
    if total > 0.0 && total.is_finite() {
        Ok(Some(Rate(total)))
    } else {
        Err(format!("{text:?} is not a rate above 0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(seconds("350ms"), Ok(0.35));
        assert_eq!(seconds("2"), Ok(2.0));
        assert_eq!(seconds("1.5m"), Ok(90.0));
        assert_eq!(bytes("128KiB"), Ok(131_072));
        assert_eq!(bytes("1400"), Ok(1400));
        assert_eq!(rate("max"), Ok(None));
        assert_eq!(rate("20k"), Ok(Some(Rate(20_000.0))));
        assert_eq!(rate("2.5Gbit/s"), Ok(Some(Rate(2.5e9))));
    }

    #[test]
    fn says_what_was_expected() {
        for bad in ["", "s", "-2s", "2 days", "2e3"] {
            assert!(seconds(bad).is_err(), "{bad:?}");
        }
        assert!(bytes("1.5").is_err());
        assert!(bytes("1GiBB").is_err());
        assert!(rate("0").is_err());
        assert!(rate("12 parsecs").unwrap_err().contains("20k"));
    }
}
