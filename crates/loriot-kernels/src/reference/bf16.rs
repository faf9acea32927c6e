//! bfloat16 by its definition.

/// The value of a bf16's bits.
///
/// ```text
/// (−1)^sign · 1.fraction · 2^(exponent − 127)        (−1)^sign · 0.fraction · 2^−126 where the exponent is 0
/// ```
pub fn from_bf16(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 7 & 0xff), f64::from(bits & 0x7f) / 128.0);
    match (exponent, fraction) {
        (0xff, 0.0) => sign * f64::INFINITY,
        (0xff, _) => f64::NAN,
        (0, _) => sign * fraction * 2f64.powi(-126),
        _ => sign * (1.0 + fraction) * 2f64.powi(exponent - 127),
    }
}

/// The bits of the bf16 nearest to `x`, which is no NaN; of two as near, those that are even. Beyond the greatest follows
/// infinity, as if it were the next.
pub fn to_bf16(x: f32) -> u16 {
    let magnitude = f64::from(x.abs());
    // Bits in increasing order are values in increasing order.
    let value = |bits: u16| if bits == 0x7f80 { 2f64.powi(128) } else { from_bf16(bits) };
    let (mut low, mut high) = (0, 0x7f80);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if value(middle) <= magnitude { low = middle } else { high = middle }
    }
    let (below, above) = (magnitude - value(low), value(high) - magnitude);
    let nearest = match below.total_cmp(&above) {
        std::cmp::Ordering::Less => low,
        std::cmp::Ordering::Greater => high,
        std::cmp::Ordering::Equal => low + low % 2,
    };
    nearest | u16::from(x.is_sign_negative()) << 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        for (x, bits) in [
            (1.0, 0x3f80),
            (-2.0, 0xc000),
            (3.140_625, 0x4049),
            (std::f32::consts::PI, 0x4049),
            (0.0, 0),
            (-0.0, 0x8000),
            (f32::INFINITY, 0x7f80),
            (f32::MAX, 0x7f80),
        ] {
            assert_eq!(to_bf16(x), bits, "{x}");
        }
        assert_eq!(from_bf16(0x4049), 3.140_625);
        assert_eq!(from_bf16(1), 2f64.powi(-133));
    }
}
