// npm fhir-kit-client against a running stack: a resource's life, a search by POST, paging, a transaction.
import assert from "node:assert/strict";

const imported = await import(`${process.env.WARD_MODULES}/fhir-kit-client/dist/index.js`);
const Client = imported.default ?? imported.Client;

const client = new Client({ baseUrl: process.env.WARD_BASE, bearerToken: process.env.WARD_TOKEN });

const statement = await client.capabilityStatement();
assert.equal(statement.fhirVersion, "4.0.1");

const created = await client.create({
  resourceType: "Patient",
  body: { resourceType: "Patient", name: [{ family: "Kit", given: ["Fhir"] }], birthDate: "1980-02-29" },
});
assert.ok(created.id);
created.name[0].family = "Client";
const updated = await client.update({ resourceType: "Patient", id: created.id, body: created });
assert.equal(updated.meta.versionId, "2");
const first = await client.vread({ resourceType: "Patient", id: created.id, version: "1" });
assert.equal(first.name[0].family, "Kit");
const history = await client.history({ resourceType: "Patient", id: created.id });
assert.equal(history.entry.length, 2);

const found = await client.search({
  resourceType: "Patient",
  searchParams: { family: "client", birthdate: "1980-02-29" },
  options: { postSearch: true },
});
assert.deepEqual(found.entry.map((entry) => entry.resource.id), [created.id]);

let page = await client.search({ resourceType: "Patient", searchParams: { _count: 2 }, options: { postSearch: true } });
let seen = 0;
while (page) {
  seen += page.entry.length;
  page = page.link.some((link) => link.relation === "next") ? await client.nextPage({ bundle: page }) : undefined;
}
assert.equal(seen, 6);

const bundle = await client.transaction({
  body: {
    resourceType: "Bundle",
    type: "transaction",
    entry: [
      {
        resource: {
          resourceType: "Observation",
          status: "final",
          code: { text: "pulse" },
          subject: { reference: `Patient/${created.id}` },
        },
        request: { method: "POST", url: "Observation" },
      },
    ],
  },
});
assert.match(bundle.entry[0].response.status, /^201/);

await client.delete({ resourceType: "Patient", id: created.id });
await assert.rejects(client.read({ resourceType: "Patient", id: created.id }), (error) => {
  assert.equal(error.response.status, 410);
  assert.equal(error.response.data.resourceType, "OperationOutcome");
  return true;
});
console.log("ok");
