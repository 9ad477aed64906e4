//! Names of settings and parameters that are nearly right.

/// How alike two names are where one is a slip of the other: 1 is equal.
const ALIKE: f64 = 0.8;

/// The known name that is most like this one, if one is much like it.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = |other: &&str| strsim::jaro(name, other);
    let best = known.into_iter().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (alike(&best) >= ALIKE).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_alike_are_not_proposed() {
        assert_eq!(nearest("temprature", ["temperature", "top_k"]), Some("temperature"));
        assert_eq!(nearest("penalty", ["temperature", "top_k"]), None);
    }
}
