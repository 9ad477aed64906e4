//! What a case of the kind `sample` expects of one distribution: status, entropy, and tokens with ranks and logprobs.

use super::check::Check;
use super::unknown::strangers;
use logitd_core::inspection::{Logprobs, TokenLogprob};
use serde_json::{Value as Json, json};

/// What is compared of a distribution, and of a token in it.
const FIELDS: [&str; 5] = ["status", "entropy_bits", "token", "top", "ids"];
const OF_A_TOKEN: [&str; 3] = ["token", "rank", "logprob_bits"];

/// What of an expectation is not known here.
pub fn unknown(expected: Option<&Json>) -> Vec<String> {
    let what = "expectation logprobs";
    let Some(expected) = expected else { return vec![] };
    let Some(object) = expected.as_object() else {
        return vec![format!("{what} that are no object")];
    };
    let mut unknown = strangers(what, object, |name| FIELDS.contains(&name));
    let list = |name: &str| object.get(name).and_then(Json::as_array).into_iter().flatten();
    for token in object.get("token").into_iter().chain(list("top")).chain(list("ids")) {
        let token = token.as_object().into_iter();
        unknown.extend(
            token.flat_map(|token| strangers(what, token, |name| OF_A_TOKEN.contains(&name))),
        );
    }
    unknown
}

/// Compares each field that is expected.
pub fn compare(expected: &Json, found: Option<&Logprobs>, check: &mut Check) {
    let given = |name: &str| expected.get(name);
    if let Some(status) = given("status") {
        check.exact("logprobs.status", status, json!(found.map(|found| found.status.name())));
    }
    if let Some(bits) = given("entropy_bits") {
        let found = found.map(|found| format!("{:08x}", found.entropy.0.to_bits()));
        check.exact("logprobs.entropy_bits", bits, json!(found));
    }
    if let Some(token) = given("token") {
        let drawn = found.and_then(|found| found.drawn.first());
        of_token("logprobs.token", token, drawn, check);
    }
    for (name, list) in
        [("top", found.map(|found| &found.top)), ("ids", found.map(|found| &found.ids))]
    {
        if let Some(tokens) = given(name) {
            of_list(&format!("logprobs.{name}"), tokens, list.map(Vec::as_slice), check);
        }
    }
}

fn of_list(field: &str, expected: &Json, found: Option<&[TokenLogprob]>, check: &mut Check) {
    let tokens = expected.as_array().map_or(&[][..], Vec::as_slice);
    let (wanted, length) = (json!(tokens.len()), found.map(<[TokenLogprob]>::len));
    check.exact(&format!("{field}: tokens"), &wanted, json!(length));
    for (i, token) in tokens.iter().enumerate() {
        of_token(&format!("{field}[{i}]"), token, found.and_then(|found| found.get(i)), check);
    }
}

fn of_token(field: &str, expected: &Json, found: Option<&TokenLogprob>, check: &mut Check) {
    for (name, got) in [("token", found.map(|one| one.token)), ("rank", found.map(|one| one.rank))]
    {
        check.exact(&format!("{field}.{name}"), &expected[name], json!(got));
    }
    let (name, logprob) = ("logprob_bits", found.map(|one| one.logprob));
    let (path, expected) = (format!("{field}.{name}"), &expected[name]);
    // The least number is a unit from -inf, and nothing that a logarithm could come to.
    match *expected == json!("ff800000") {
        true => {
            check.exact(&path, expected, json!(logprob.map(|x| format!("{:08x}", x.to_bits()))))
        }
        false => check.within_a_unit(&path, expected, logprob),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::batch::RowStatus;
    use logitd_core::inspection::{Distribution, Entropy};

    fn found() -> Logprobs {
        let token = |token, rank, logprob| TokenLogprob { token, rank, logprob };
        Logprobs {
            of: Distribution::Raw,
            status: RowStatus::Ok,
            entropy: Entropy(1.0),
            drawn: vec![token(3, 2, -1.0)],
            top: vec![token(9, 1, -0.5), token(3, 2, -1.0)],
            ids: vec![token(4, 0, f32::NEG_INFINITY)],
        }
    }

    fn expected() -> Json {
        let token = |token, rank, bits| json!({"token": token, "rank": rank, "logprob_bits": bits});
        json!({
            "status": "OK",
            "entropy_bits": "3f800000",
            "token": token(3, 2, "bf800001"),
            "top": [token(9, 1, "bf000000"), token(3, 2, "bf800000")],
            "ids": [token(4, 0, "ff800000")],
        })
    }

    /// A field, and how it is made wrong.
    type Spoiled = (&'static str, fn(&mut Logprobs));

    #[test]
    fn every_field_counts() {
        let mut check = Check::default();
        compare(&expected(), Some(&found()), &mut check);
        assert_eq!((check.compared, check.wrong.len()), (16, 0), "{:?}", check.wrong);
        let spoiled: [Spoiled; 8] = [
            ("logprobs.status", |one| one.status = RowStatus::Nan),
            ("logprobs.entropy_bits", |one| one.entropy.0 = 1.0f32.next_up()),
            ("logprobs.token.rank", |one| one.drawn[0].rank = 1),
            ("logprobs.token.logprob_bits", |one| one.drawn[0].logprob = -1.01),
            ("logprobs.top[1].token", |one| one.top[1].token = 5),
            ("logprobs.top: tokens", |one| one.top.push(one.top[0])),
            ("logprobs.ids[0].logprob_bits", |one| one.ids[0].logprob = f32::MIN),
            ("logprobs.ids[0].rank", |one| one.ids[0].rank = 7),
        ];
        for (field, spoil) in spoiled {
            let (mut check, mut one) = (Check::default(), found());
            spoil(&mut one);
            compare(&expected(), Some(&one), &mut check);
            let wrong: Vec<_> = check.wrong.iter().map(|wrong| wrong.field.as_str()).collect();
            assert_eq!(wrong, [field]);
        }
        let mut check = Check::default();
        compare(&expected(), None, &mut check);
        assert_eq!(check.wrong.len(), check.compared, "nothing was told");
    }

    #[test]
    fn what_is_not_known_is_named() {
        assert!(unknown(None).is_empty() && unknown(Some(&expected())).is_empty());
        let mut strange = expected();
        strange["varentropy"] = json!(1);
        strange["top"][1]["surprisal"] = json!(2);
        let expected = ["expectation logprobs varentropy", "expectation logprobs surprisal"];
        assert_eq!(unknown(Some(&strange)), expected);
        assert_eq!(unknown(Some(&json!(5))).len(), 1);
    }
}
