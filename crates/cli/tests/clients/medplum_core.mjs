// npm @medplum/core (MedplumClient) against a running stack, by Node 22: what its users do all day.
import assert from "node:assert/strict";

const { MedplumClient } = await import(`${process.env.WARD_MODULES}/@medplum/core/dist/esm/index.mjs`);

const medplum = new MedplumClient({ baseUrl: `${process.env.WARD_ORIGIN}/`, cacheTime: 0, autoBatchTime: 0 });
medplum.setAccessToken(process.env.WARD_TOKEN);

const mrn = (value) => [{ system: "urn:mrn", value }];
const patient = await medplum.createResource({
  resourceType: "Patient",
  identifier: mrn("m-1"),
  name: [{ family: "Plum", given: ["Med"] }],
  birthDate: "1980-02-29",
});
assert.ok(patient.id);
const again = await medplum.createResourceIfNoneExist(
  { resourceType: "Patient", identifier: mrn("m-1"), name: [{ family: "Other" }] },
  "identifier=urn:mrn|m-1",
);
assert.equal(again.id, patient.id);
const practitioner = await medplum.createResource({ resourceType: "Practitioner", name: [{ family: "Doctor" }] });

const updated = await medplum.updateResource({
  ...patient,
  generalPractitioner: [{ reference: `Practitioner/${practitioner.id}` }],
});
assert.equal(updated.meta.versionId, "2");
const patched = await medplum.patchResource("Patient", patient.id, [
  { op: "test", path: "/meta/versionId", value: "2" },
  { op: "add", path: "/gender", value: "female" },
]);
assert.equal(patched.gender, "female");
const history = await medplum.readHistory("Patient", patient.id);
assert.deepEqual(history.entry.map((entry) => entry.resource.meta.versionId), ["3", "2", "1"]);
assert.equal((await medplum.readVersion("Patient", patient.id, "1")).gender, undefined);

const observation = await medplum.createResource({
  resourceType: "Observation",
  status: "final",
  code: { coding: [{ system: "http://loinc.org", code: "plum-1" }] },
  subject: { reference: `Patient/${patient.id}` },
  effectiveDateTime: "2026-05-20T10:00:00Z",
  valueQuantity: { value: 70, unit: "/min" },
});
const ids = (resources) => resources.map((resource) => resource.id);
assert.deepEqual(ids(await medplum.searchResources("Patient", { name: "plum", birthdate: "1980-02-29" })), [patient.id]);
assert.equal((await medplum.searchOne("Observation", "subject.name=plum&code=plum-1")).id, observation.id);
assert.deepEqual(ids(await medplum.searchResources("Patient", "_has:Observation:subject:code=plum-1")), [patient.id]);
const included = await medplum.search("Observation", "code=plum-1&_include=Observation:subject&_include:iterate=Patient:general-practitioner");
assert.deepEqual(
  included.entry.map((entry) => [entry.search.mode, entry.resource.resourceType]).sort(),
  [["include", "Patient"], ["include", "Practitioner"], ["match", "Observation"]],
);
let seen = 0;
for await (const page of medplum.searchResourcePages("Patient", "_count=2")) {
  seen += page.length;
}
assert.equal(seen, 6);

const bundle = await medplum.executeBatch({
  resourceType: "Bundle",
  type: "transaction",
  entry: [
    {
      fullUrl: "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e1",
      resource: { resourceType: "Encounter", status: "finished", class: { code: "AMB" }, subject: { reference: "Patient?identifier=urn:mrn|m-1" } },
      request: { method: "POST", url: "Encounter" },
    },
    { resource: patched, request: { method: "PUT", url: `Patient/${patient.id}` } },
  ],
});
assert.deepEqual(bundle.entry.map((entry) => entry.response.status.slice(0, 3)), ["201", "200"]);
const everything = await medplum.readPatientEverything(patient.id);
assert.deepEqual(
  everything.entry.map((entry) => entry.resource.resourceType).sort(),
  ["Encounter", "Observation", "Patient", "Practitioner"],
);
const outcome = await medplum.validateResource({ resourceType: "Patient", contact: [{ gender: "female" }] });
assert.equal(outcome.issue[0].severity, "error");
await assert.rejects(medplum.createResource({ resourceType: "Patient", gender: "unheard-of" }), (error) => {
  assert.equal(error.outcome.resourceType, "OperationOutcome");
  return true;
});

await medplum.deleteResource("Observation", observation.id);
await assert.rejects(medplum.readResource("Observation", observation.id), (error) => {
  assert.equal(error.outcome.issue[0].code, "deleted");
  return true;
});
console.log("ok");
