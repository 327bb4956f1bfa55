use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// What an expression finds in a patient, one item a line; or why nothing.
fn found(resource: &Value, text: &str) -> String {
    let expression = match Expression::compile(text) {
        Ok(expression) => expression,
        Err(error) => return format!("{error}"),
    };
    let context = Context { now: Some(Timestamp(1_700_000_000_000_000)), ..Context::of(resource) };
    match expression.evaluate(&context) {
        Ok(items) => {
            let line = |item: &Item<'_>| {
                let shown = match (item.json(), convert::text(item)) {
                    (_, Some(text)) => text.to_string(),
                    (Some(json), None) => json.to_string(),
                    (None, None) => String::new(),
                };
                format!("{}:{shown}", item.type_name())
            };
            items.iter().map(line).collect::<Vec<_>>().join(" ")
        }
        Err(error) => format!("{error}"),
    }
}

fn patient() -> Value {
    json!({
        "resourceType": "Patient",
        "id": "p",
        "active": true,
        "birthDate": "1974-12-25",
        "_birthDate": {"extension": [{"url": "http://example.org/time", "valueDateTime": "1974-12-25T14:35:45-05:00"}]},
        "name": [
            {"use": "official", "family": "Chalmers", "given": ["Peter", "James"]},
            {"use": "usual", "given": ["Jim"], "_given": [{"id": "g"}]},
        ],
        "contained": [{"resourceType": "Organization", "id": "o", "name": "x"}],
        "managingOrganization": {"reference": "#o"},
        "deceasedBoolean": false,
        "multipleBirthInteger": 2,
        "_gender": {"id": "only"},
        "extension": [{"url": "http://example.org/q", "valueQuantity": {
            "value": 1.50, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"}}],
    })
}

/// Lines `expression → what it finds`.
#[track_caller]
fn check(lines: &str) {
    let resource = patient();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (text, expected) = line.split_once(" → ").unwrap_or((line.trim_end_matches(" →"), ""));
        assert_eq!(found(&resource, text), expected, "{text}");
    }
}

#[test]
fn paths_follow_the_definitions() {
    check(
        "
        Patient.name.given → string:Peter string:James string:Jim
        name.given[1] → string:James
        name[0].family → string:Chalmers
        Observation.name →
        nothing.at.all →
        deceased → boolean:false
        deceasedBoolean →
        multipleBirth is integer → Boolean:true
        multipleBirth.ofType(string) →
        birthDate.extension('http://example.org/time').value → dateTime:1974-12-25T14:35:45-05:00
        gender.exists() and gender.hasValue().not() → Boolean:true
        gender.id → string:only
        name[1].given.id → string:g
        extension.value.ofType(Quantity).code → code:kg
        managingOrganization.resolve().name → string:x
        managingOrganization.resolve() is Organization → Boolean:true
        contained.ofType(Organization).id → id:o
        name.where(use = 'usual').given → string:Jim
        descendants().where($this is code).count() → Integer:4
        %resource.id → id:p
        name.select(given.first()) → string:Peter string:Jim
        name.given.select($index) → Integer:0 Integer:1 Integer:2
        Patient is DomainResource → Boolean:true
        Patient.name.type().name → String:HumanName String:HumanName
        contact.empty() → Boolean:true
        ",
    );
}

#[test]
fn operators_have_their_precedence_and_three_truths() {
    check(
        "
        1 + 2 * 3 = 7 → Boolean:true
        -1 + 2 → Integer:1
        7 div 2 → Integer:3
        7 mod 2 → Integer:1
        1 / 4 → Decimal:0.25
        1 / 0 →
        0.1 + 0.2 = 0.3 → Boolean:true
        {} and false → Boolean:false
        {} and true →
        {} or true → Boolean:true
        {} implies true → Boolean:true
        false implies {} → Boolean:true
        true xor true → Boolean:false
        {} = 1 →
        (1 | 2 | 1).count() → Integer:2
        'a' in ('a' | 'b') → Boolean:true
        ('a' | 'b') contains 'c' → Boolean:false
        'a' & {} & 'b' → String:ab
        1 = 1.0 → Boolean:true
        0.00000000000000000001 = 0 → Boolean:false
        'Ab  c' ~ 'aB c' → Boolean:true
        1 'kg' = 1000 'g' → Boolean:true
        extension.value > 1 'kg' → Boolean:true
        1 'kg' = 1 'm' →
        7 days = 1 week → Boolean:true
        1 'h' = 60 minutes → Boolean:true
        1 'a' = 1 year →
        birthDate = @T12:00 → Boolean:false
        1 < 'a' → the expression applies an operator or a function to a type that it does not take
        name = 1 → Boolean:false
        name.given and true → the expression finds several items where one is needed
        ",
    );
}

#[test]
fn times_are_compared_as_exactly_as_they_are_written() {
    check(
        "
        birthDate < @1974-12-26 → Boolean:true
        birthDate = @1974-12 →
        birthDate < @1975 → Boolean:true
        @2012-04-15T15:00:00Z = @2012-04-15T17:00:00+02:00 → Boolean:true
        @2012-04-15T15:00:00Z = @2012-04-15T15:00:00 →
        @T10:30 < @T10:31:00 → Boolean:true
        @2012-01-31 + 1 month → Date:2012-02-29
        @2012-02-29 + 1 year → Date:2013-02-28
        @2012-11-30 + 1 month → Date:2012-12-30
        @2012-12-31 + 700000000000000000 years →
        @2012 + 24 months → Date:2014
        @2012-12-31T23:59:59.5Z + 1 second → DateTime:2013-01-01T00:00:00.5Z
        @T23:00 + 2 hours → Time:01:00
        @2012-02-30 → invalid literal at byte 0 of the expression
        @9999-12-31 + 1 day →
        today() → Date:2023-11-14
        now() > birthDate → Boolean:true
        @2015T.is(DateTime) → Boolean:true
        ",
    );
}

#[test]
fn functions_do_what_they_say() {
    check(
        "
        name.given.join(',') → String:Peter,James,Jim
        'abc'.substring(1, 1) → String:b
        'abc'.substring(3) →
        'abc'.indexOf('c') → Integer:2
        'abc'.replace('b', 'xx') → String:axxc
        'abc'.replace('', '-') → String:-a-b-c-
        'a1b22'.replaceMatches('[0-9]+', '#') → String:a#b#
        'ab'.replaceMatches('(a)(b)', '$2$1') → String:ba
        'baéa'.replaceMatches('a*', 'x') → String:xbxéx
        'éa'.replaceMatches('(?<first>.)', '${first}$$') → String:é$a$
        'abc'.matches('b') → Boolean:true
        'a,b'.split(',') → String:a String:b
        '1.5'.toDecimal() + 1 → Decimal:2.5
        'x'.toInteger() →
        '5 days'.toQuantity() = 5 days → Boolean:true
        'T'.toBoolean() → Boolean:true
        '2014-01'.convertsToDate() → Boolean:true
        (1 | 2 | 3).aggregate($this + $total, 0) → Integer:6
        (1 | 2 | 3).where($this > 1) → Integer:2 Integer:3
        (1 | 2).all($this > 0) → Boolean:true
        (true | false).anyFalse() → Boolean:true
        (1 | 2).combine(2).isDistinct() → Boolean:false
        (1 | 2).exclude(2) → Integer:1
        (1 | 2).intersect(2 | 3) → Integer:2
        iif({}, 1, 2) → Integer:2
        {}.iif(empty(), 1, 2) → Integer:1
        (-2.5).round() → Decimal:-3
        1.1.ceiling() → Integer:2
        2.power(10) → Integer:1024
        16.sqrt() = 4 → Boolean:true
        name.repeat(given).count() → Integer:3
        (1 | 2).single() → the expression finds several items where one is needed
        name.given.skip(1).take(1) → string:James
        'x'.trace('y') → String:x
        gender.getValue() →
        text.div.htmlChecks() → Boolean:true
        'x'.matches('(') → unacceptable regular expression at byte 4 of the expression
        1.foo() → unknown function at byte 2 of the expression
        1 is Foo → unknown type at byte 5 of the expression
        %foo → the expression uses a variable that is not known here
        'a'.length( → unexpected end at byte 11 of the expression
        ",
    );
}

#[test]
fn bounds_hold() {
    let resource = patient();
    let deep = format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000));
    assert_eq!(Expression::compile(&deep).unwrap_err().kind, CompileErrorKind::TooLong);
    for text in
        ["(".repeat(5000), "-".repeat(10_000) + "1", "1".to_owned() + &"+1".repeat(5000), "a[".repeat(4000)]
    {
        assert_eq!(Expression::compile(&text).unwrap_err().kind, CompileErrorKind::TooDeep, "{}", &text[..9]);
    }
    // Each operator makes the tree deeper, whatever parentheses stand around those before it.
    let mut rounds = "1".to_owned();
    for _ in 0..60 {
        rounds = format!("({rounds}){}", "+1".repeat(98));
    }
    for text in [
        rounds,
        format!("{}1{}", "(".repeat(50), " is String)".repeat(50) + &" is String".repeat(99)),
        format!("{}1{}", "exists(".repeat(50), "+1+1+1)".repeat(50)),
        format!("a{}{}", "[b".repeat(50), "+1+1+1]".repeat(50)),
        format!("{}1{}", "-(".repeat(50), "+1+1+1)".repeat(50)),
    ] {
        assert_eq!(Expression::compile(&text).unwrap_err().kind, CompileErrorKind::TooDeep, "{}", &text[..9]);
    }
    for text in [
        "1".to_owned() + &" + 1".repeat(99),
        format!("{}1{}", "(".repeat(99), ")".repeat(99)),
        "select(".repeat(98) + "1" + &").first()".repeat(98),
        "'a'.replace('a', ".repeat(98) + "'b'" + &")".repeat(98),
    ] {
        let expression = Expression::compile(&text).unwrap_or_else(|error| panic!("{}: {error}", &text[..9]));
        assert_eq!(expression.evaluate(&Context::of(&resource)).unwrap().len(), 1);
    }
    let costly = "the expression needs more work than is accepted";
    let mut doubled = "'aaaaaaaaaaaaaaaa'".to_owned();
    for _ in 0..60 {
        doubled.push_str(".replace('a', 'aaaaaaaaaaaaaaaa')");
    }
    assert_eq!(found(&resource, &doubled), costly);
    assert_eq!(found(&resource, "1.repeat($this + 1).count()"), costly);
    let squared = "descendants()".to_owned() + &".select(%resource.descendants())".repeat(9) + ".count()";
    assert_eq!(found(&resource, &squared), costly);
    for large in ["\\\\w{50}", "[ab]*a[ab]{4000}"] {
        let kind = Expression::compile(&format!("'a'.matches('{large}')")).unwrap_err().kind;
        assert_eq!(kind, CompileErrorKind::Pattern, "{large}");
    }
    // Neither a long text nor many matches that each look at all of it are matched for nothing.
    let long = json!({"resourceType": "Patient", "name": [{"text": "ab".repeat(100_000)}]});
    assert_eq!(found(&long, "name.text.matches('[ab]*a[ab]{200}c')"), costly);
    let long = json!({"resourceType": "Patient", "name": [{"text": "a".repeat(10_000)}]});
    assert_eq!(found(&long, "name.text.matches('b')"), "Boolean:false");
    assert_eq!(found(&long, "name.text.replaceMatches('.*b|a', '').length()"), costly);
    assert_eq!(found(&long, "name.text.substring(0, 10).replaceMatches('.*b|a', 'b')"), "String:bbbbbbbbbb");
    let many = "true".to_owned() + &" and 'a'.matches('a')".repeat(21);
    assert_eq!(Expression::compile(&many).unwrap_err().kind, CompileErrorKind::TooManyPatterns);
    let compiled = "(1".to_owned() + &" | 2".repeat(60) + ").select('a'.matches('a' & $index.toString()))";
    assert_eq!(found(&resource, &compiled), "Boolean:false Boolean:false");
    let compiled = "'a'.repeat(iif($this.length() < 99, $this & 'a', {})).select('a'.matches($this)).count()";
    assert_eq!(found(&resource, compiled), costly);
    let mut nested = json!({"url": "x", "valueCode": "x"});
    for _ in 0..1000 {
        nested = json!({"url": "x", "extension": [nested]});
    }
    let resource = json!({"resourceType": "Patient", "extension": [nested, nested]});
    assert_eq!(found(&resource, "descendants().count() > 1000"), "Boolean:true");
    assert_eq!(found(&resource, "extension.isDistinct()"), "the resource is nested deeper than is accepted");
}

#[test]
fn nothing_is_looked_at_or_made_for_nothing() {
    let costly = "the expression needs more work than is accepted";
    let long = "0".repeat(2 << 20);
    let resource: Value = serde_json::from_str(&format!(
        r#"{{"resourceType": "Patient", "name": [{{"text": "{long}b"}}, {{"text": "{long}c"}}], "extension": [
            {{"url": "n", "valueDecimal": 1.{}}}, {{"url": "{long}"}},
            {{"url": "q", "valueQuantity": {{"value": 1, "system": "{long}", "code": "x"}}}},
            {{"url": "t", "valueDateTime": "2020-01-01T00:00:00.{long}Z"}}]}}"#,
        "0".repeat(200),
    ))
    .unwrap();
    let often = |condition: &str| format!("{condition} and ").repeat(90) + "true";
    let wrong_type = "the expression applies an operator or a function to a type that it does not take";
    for (text, expected) in [
        // Units grow with every product.
        ("(1|2|3|4|5|6|7|8|9|10|11|12).aggregate($total * $total, 1 'mm')".to_owned(), costly),
        ("(1|2|3).aggregate($total / 1 's', 1 'mm')".to_owned(), "Quantity:1 'mm/s/s/s'"),
        // Texts are looked at whenever they are converted, compared or looked for.
        ("name.first().text.toString().length()".to_owned(), "Integer:2097153"),
        (format!("name.first().text{}.length()", ".toString()".repeat(200)), costly),
        ("name.first().text < name.last().text".to_owned(), "Boolean:true"),
        (often("name.first().text < name.last().text"), costly),
        (often("extension(%resource.name.first().text.substring(0, 1048576)).empty()"), costly),
        // What is longer than any number, unit or time is none.
        ("extension('n').value < 2".to_owned(), wrong_type),
        ("extension('q').value.toQuantity().empty()".to_owned(), "Boolean:true"),
        ("extension('t').value = @2020".to_owned(), "Boolean:false"),
    ] {
        assert_eq!(found(&resource, &text), expected, "{}", &text[..text.len().min(60)]);
    }
    let named = |text: &str| json!({"text": text});
    let names = json!({"resourceType": "Patient", "name": [named("a"), named(&long)]});
    assert_eq!(found(&names, "name.first() ~ name.last()"), "Boolean:false");
    assert_eq!(found(&names, &often("(name.first() ~ name.last()).not()")), costly);
    let given = |given: Vec<Value>| json!({"resourceType": "Patient", "name": [{"given": given}]});
    let texts = |count: usize| given(vec!["x".into(); count]);
    assert_eq!(found(&texts(ITEMS_MAX + 1), "name.given.count()"), costly);
    assert_eq!(found(&texts(100_000), "name.given.type().type().count()"), "Integer:100000");
    assert_eq!(found(&texts(100_000), &format!("name.given{}.count()", ".type()".repeat(30))), costly);
    let conforms = "%resource.conformsTo('http://hl7.org/fhir/StructureDefinition/Patient')";
    assert_eq!(found(&texts(10_000), conforms), "Boolean:true");
    assert_eq!(found(&texts(10_000), &often(conforms)), costly);
    assert_eq!(found(&given(vec![Value::Null; 100_000]), &often("name.given.empty()")), costly);
    let mut unknown = patient();
    let names = (0..100_000).map(|number| (format!("x{number}"), true.into()));
    unknown.as_object_mut().unwrap().extend(names);
    assert_eq!(found(&unknown, &often("children().exists()")), costly);
}

#[test]
fn what_is_found_cannot_be_printed() {
    let resource = patient();
    let expression =
        Expression::compile("name.family | birthDate | 'secret' | 1.5 | 2 'kg' | @2020").unwrap();
    let found = expression.evaluate(&Context::of(&resource)).unwrap();
    let printed = format!("{expression:?} {found:?} {:?}", Resolved::Resource(&resource));
    assert_eq!(printed, format!("Expression(..) [{}] Resolved(..)", ["Item(..)"; 6].join(", ")));
    for item in &found {
        match item {
            Item::Quantity(quantity) => assert_eq!(format!("{quantity:?}"), "Quantity(..)"),
            Item::Element(element) => assert_eq!(format!("{element:?}"), "Element(..)"),
            Item::Decimal(number) => assert_eq!(format!("{number:?}"), "Decimal(..)"),
            Item::Date(date) => assert_eq!(format!("{date:?}"), "Temporal(..)"),
            _ => {}
        }
    }
}

/// Words and symbols of the grammar, so that much of what is tried can be compiled.
fn text() -> impl Strategy<Value = String> {
    let words = [
        "name",
        "given",
        "Patient",
        "value",
        "$this",
        "$index",
        "$total",
        "%resource",
        "%context",
        "{}",
        "(",
        ")",
        "[",
        "]",
        ".",
        ",",
        "'a'",
        "'('",
        "1",
        "2.5",
        "@2020-01",
        "@2020-01-01T00:00:00Z",
        "@T10",
        "4 'kg'",
        "3 days",
        " and ",
        " or ",
        " is ",
        " as ",
        "+",
        "-",
        "*",
        "/",
        " div ",
        " mod ",
        "&",
        "|",
        "=",
        "~",
        "<",
        ">=",
        " in ",
        " contains ",
        " implies ",
        "Quantity",
        "string",
        ".exists()",
        ".empty()",
        ".count()",
        ".first()",
        ".where(",
        ".select(",
        ".repeat(",
        ".all(",
        ".aggregate(",
        ".descendants()",
        ".children()",
        ".matches(",
        ".replace(",
        ".toString()",
        ".toInteger()",
        ".toQuantity()",
        ".toDate()",
        ".iif(",
        ".ofType(",
        ".resolve()",
        ".power(",
        ".round(",
        ".substring(",
        ".combine(",
        ".distinct()",
        ".join(",
        ".now()",
        "é",
        "\\",
        "`x`",
        "'\\u00e9'",
    ];
    prop_oneof![
        prop::collection::vec(prop::sample::select(words.to_vec()), 0..24).prop_map(|words| words.concat()),
        ".{0,40}",
    ]
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(Value::from("2020-02-30T25:00:00Z")),
    ];
    let names = [
        "resourceType",
        "id",
        "name",
        "_name",
        "given",
        "_given",
        "extension",
        "value",
        "valueQuantity",
        "_valueCode",
        "contained",
        "reference",
        "birthDate",
        "_birthDate",
        "url",
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(prop::sample::select(names.to_vec()), inner, 0..6).prop_map(
                |object| {
                    let mut out = serde_json::Map::new();
                    for (name, value) in object {
                        let value = if name == "resourceType" { "Patient".into() } else { value };
                        out.insert(name.to_owned(), value);
                    }
                    Value::Object(out)
                }
            ),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_panics(text in text(), resource in json()) {
        let _ = found(&resource, &text);
        let mut resource = resource;
        if let Value::Object(object) = &mut resource {
            object.insert("resourceType".to_owned(), "Patient".into());
        }
        let _ = found(&resource, &text);
    }

    #[test]
    fn decimals_are_what_they_look_like(number in any::<i64>(), digits in 0_u8..20, other in any::<i32>()) {
        prop_assert!(Decimal::parse("1e-200").is_none() && Decimal::parse("1e200").is_none());
        let text = format!("{number}e-{digits}");
        let decimal = Decimal::parse(&text).unwrap();
        prop_assert_eq!(Decimal::parse(&decimal.to_string()).unwrap(), decimal);
        let other = Decimal::whole(other.into());
        if let Some(sum) = decimal.add(other) {
            prop_assert_eq!(sum.subtract(other).unwrap(), decimal);
        }
    }
}
