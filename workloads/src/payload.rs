//! The bytes that flows send: pseudo-random, so nothing on the path can profit from zeros, or the
//! task's canary over and over for a sniffer to find.

/// `len` bytes: the canary as often as it fits whole, and noise in what is left.
pub(crate) fn fill(len: usize, canary: &[u8]) -> Vec<u8> {
    // xorshift64* (Vigna 2016, "An experimental exploration of Marsaglia's xorshift generators").
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    out.truncate(len);
    if !canary.is_empty() {
        for place in out.chunks_exact_mut(canary.len()) {
            place.copy_from_slice(canary);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_every_byte_about_as_often() {
        let bytes = fill(1 << 16, b"");
        for value in 0..=255u8 {
            let n = bytes.iter().filter(|&&b| b == value).count();
            assert!((150..=370).contains(&n), "{value}: {n}");
        }
    }

    #[test]
    fn the_canary_is_whole_wherever_it_fits() {
        let bytes = fill(10, b"abc");
        assert_eq!(&bytes[..9], b"abcabcabc");
        assert_eq!(bytes.len(), 10);
        assert_eq!(fill(2, b"abc").len(), 2);
    }
}
