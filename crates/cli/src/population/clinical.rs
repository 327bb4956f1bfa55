//! What happened to a made-up patient: visits, vital signs, conditions, medicines, allergies and notes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Day, Dice, TODAY};

const SNOMED: &str = "http://snomed.info/sct";
const LOINC: &str = "http://loinc.org";
const UCUM: &str = "http://unitsofmeasure.org";
const RXNORM: &str = "http://www.nlm.nih.gov/research/umls/rxnorm";
const CATEGORY: &str = "http://terminology.hl7.org/CodeSystem/observation-category";

const CONDITIONS: &[(&str, &str, &str, &str)] = &[
    ("38341003", "Hypertensive disorder", "314076", "Lisinopril 10 MG Oral Tablet"),
    ("44054006", "Type 2 diabetes mellitus", "860975", "Metformin hydrochloride 500 MG Oral Tablet"),
    ("55822004", "Hyperlipidemia", "617312", "Atorvastatin 20 MG Oral Tablet"),
    ("195967001", "Asthma", "745679", "Albuterol 0.09 MG/ACTUAT Inhaler"),
    ("35489007", "Depressive disorder", "312941", "Sertraline 50 MG Oral Tablet"),
    ("40930008", "Hypothyroidism", "966224", "Levothyroxine Sodium 0.05 MG Oral Tablet"),
    ("235595009", "Gastroesophageal reflux disease", "198053", "Omeprazole 20 MG Oral Capsule"),
    ("396275006", "Osteoarthritis", "198440", "Acetaminophen 500 MG Oral Tablet"),
];

const ALLERGENS: &[(&str, &str, &str)] = &[
    ("91936005", "Allergy to penicillin", "medication"),
    ("91935009", "Allergy to peanut", "food"),
    ("300916003", "Latex allergy", "environment"),
    ("418689008", "Allergy to grass pollen", "environment"),
];

/// Code, name, unit, UCUM unit, usual value, spread, and digits after the point.
type Vital = (&'static str, &'static str, &'static str, &'static str, i64, i64, u32);

const VITALS: &[Vital] = &[
    ("8867-4", "Heart rate", "beats/minute", "/min", 72, 14, 0),
    ("9279-1", "Respiratory rate", "breaths/minute", "/min", 15, 3, 0),
    ("8310-5", "Body temperature", "Cel", "Cel", 368, 5, 1),
    ("29463-7", "Body weight", "kg", "kg", 745, 15, 1),
    ("2708-6", "Oxygen saturation", "%", "%", 97, 2, 0),
];

/// A literal reference to a resource, or nothing if it has no id.
pub(super) fn reference(resource: Option<&Value>) -> Option<Value> {
    let resource = resource?;
    let (kind, id) = (resource.get("resourceType")?.as_str()?, resource.get("id")?.as_str()?);
    Some(json!({"reference": format!("{kind}/{id}")}))
}

/// Adds everything but the Patient.
pub(super) fn record(dice: &mut Dice, patient: &str, birth: Day, staff: &[Value], out: &mut Vec<Value>) {
    let subject = json!({"reference": format!("Patient/{patient}")});
    let age_days = TODAY.0 - birth.0;
    let mut problems = Vec::new();
    for condition in CONDITIONS {
        if dice.chance((age_days / 1500).clamp(1, 18)) {
            problems.push(*condition);
            let onset = Day(TODAY.0 - dice.between(10, (age_days - 1).clamp(11, 5_000)));
            out.push(self::condition(dice, &subject, condition, onset));
            out.push(medication(dice, &subject, condition, onset));
        }
    }
    if dice.chance(25) {
        let (code, name, category) = *dice.pick(ALLERGENS);
        out.push(json!({
            "resourceType": "AllergyIntolerance", "id": dice.uuid(),
            "clinicalStatus": {"coding": [{
                "system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "code": "active"}]},
            "verificationStatus": {"coding": [{
                "system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-verification",
                "code": "confirmed"}]},
            "type": "allergy", "category": [category],
            "criticality": *dice.pick(&["low", "high"]),
            "code": {"coding": [{"system": SNOMED, "code": code, "display": name}], "text": name},
            "patient": subject,
        }));
    }
    let visits = dice.between(2, 6);
    for visit in 0..visits {
        let day = Day(TODAY.0 - (visits - visit) * 90 + dice.between(-20, 20)).max(birth);
        self::visit(dice, &subject, day, staff, &problems, out);
    }
}

fn condition(dice: &mut Dice, subject: &Value, what: &(&str, &str, &str, &str), onset: Day) -> Value {
    json!({
        "resourceType": "Condition", "id": dice.uuid(),
        "clinicalStatus": {"coding": [{
            "system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]},
        "verificationStatus": {"coding": [{
            "system": "http://terminology.hl7.org/CodeSystem/condition-ver-status", "code": "confirmed"}]},
        "category": [{"coding": [{
            "system": "http://terminology.hl7.org/CodeSystem/condition-category", "code": "problem-list-item"}]}],
        "code": {"coding": [{"system": SNOMED, "code": what.0, "display": what.1}], "text": what.1},
        "subject": subject, "onsetDateTime": onset.text(), "recordedDate": onset.text(),
    })
}

fn medication(dice: &mut Dice, subject: &Value, what: &(&str, &str, &str, &str), onset: Day) -> Value {
    json!({
        "resourceType": "MedicationRequest", "id": dice.uuid(), "status": "active", "intent": "order",
        "medicationCodeableConcept": {
            "coding": [{"system": RXNORM, "code": what.2, "display": what.3}], "text": what.3},
        "subject": subject, "authoredOn": onset.text(),
        "dosageInstruction": [{"text": *dice.pick(&["1 tablet daily", "1 tablet twice daily", "as needed"])}],
    })
}

fn visit(
    dice: &mut Dice,
    subject: &Value,
    day: Day,
    staff: &[Value],
    problems: &[(&str, &str, &str, &str)],
    out: &mut Vec<Value>,
) {
    let (hour, minute) = (dice.between(8, 16), dice.between(0, 5) * 10);
    let encounter = dice.uuid();
    let doctor = staff.get(usize::try_from(dice.between(1, 8)).unwrap_or(1));
    let mut event = json!({
        "resourceType": "Encounter", "id": encounter, "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB",
            "display": "ambulatory"},
        "type": [{"coding": [{"system": SNOMED, "code": "185349003", "display": "Encounter for check up"}],
            "text": "Check-up"}],
        "subject": subject,
        "period": {"start": day.at(hour, minute), "end": day.at(hour + 1, minute)},
    });
    if let (Some(object), Some(doctor)) = (event.as_object_mut(), reference(doctor)) {
        object.insert("participant".to_owned(), json!([{"individual": doctor}]));
    }
    out.push(event);
    let context = json!({"reference": format!("Encounter/{encounter}")});
    let when = day.at(hour, minute + 5);
    for vital in VITALS {
        out.push(observation(dice, subject, &context, &when, vital));
    }
    out.push(blood_pressure(dice, subject, &context, &when));
    let complaint =
        *dice.pick(&["routine follow-up", "fatigue", "cough for five days", "knee pain", "headache"]);
    let known = if problems.is_empty() {
        "No chronic conditions.".to_owned()
    } else {
        problems.iter().map(|problem| problem.1).collect::<Vec<_>>().join(", ")
    };
    let note = format!(
        "Seen for {complaint}.\n\nKnown: {known}\n\nExam unremarkable. Plan: continue present treatment, return in \
         three months or sooner if symptoms change.\n"
    );
    out.push(json!({
        "resourceType": "DocumentReference", "id": dice.uuid(), "status": "current",
        "type": {"coding": [{"system": LOINC, "code": "11506-3", "display": "Progress note"}],
            "text": "Progress note"},
        "subject": subject, "date": when,
        "content": [{"attachment": {"contentType": "text/plain; charset=utf-8", "data": STANDARD.encode(note)}}],
        "context": {"encounter": [context]},
    }));
}

fn vital_sign(
    dice: &mut Dice,
    subject: &Value,
    context: &Value,
    when: &str,
    code: &str,
    name: &str,
) -> Value {
    json!({
        "resourceType": "Observation", "id": dice.uuid(), "status": "final",
        "category": [{"coding": [{"system": CATEGORY, "code": "vital-signs", "display": "Vital Signs"}]}],
        "code": {"coding": [{"system": LOINC, "code": code, "display": name}], "text": name},
        "subject": subject, "encounter": context, "effectiveDateTime": when,
    })
}

fn observation(dice: &mut Dice, subject: &Value, context: &Value, when: &str, vital: &Vital) -> Value {
    let (code, name, unit, ucum, usual, spread, digits) = *vital;
    let mut resource = vital_sign(dice, subject, context, when, code, name);
    let value = dice.between(usual - spread, usual + spread);
    let text = if digits == 0 { value.to_string() } else { format!("{}.{}", value / 10, value % 10) };
    if let (Some(object), Ok(number)) = (resource.as_object_mut(), text.parse::<serde_json::Number>()) {
        object.insert(
            "valueQuantity".to_owned(),
            json!({"value": number, "unit": unit, "system": UCUM, "code": ucum}),
        );
    }
    resource
}

fn blood_pressure(dice: &mut Dice, subject: &Value, context: &Value, when: &str) -> Value {
    let mut resource = vital_sign(dice, subject, context, when, "85354-9", "Blood pressure");
    let component = |code: &str, name: &str, value: i64| {
        json!({
            "code": {"coding": [{"system": LOINC, "code": code, "display": name}], "text": name},
            "valueQuantity": {"value": value, "unit": "mmHg", "system": UCUM, "code": "mm[Hg]"},
        })
    };
    let (systolic, diastolic) = (dice.between(104, 152), dice.between(62, 94));
    if let Some(object) = resource.as_object_mut() {
        object.insert(
            "component".to_owned(),
            json!([
                component("8480-6", "Systolic blood pressure", systolic),
                component("8462-4", "Diastolic blood pressure", diastolic),
            ]),
        );
    }
    resource
}
