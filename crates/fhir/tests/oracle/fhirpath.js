// Evaluates with the npm package `fhirpath`, for comparison. Standard input: a line of JSON `{resources}`, then a line
// `[resource, base, part, expression]` for each case: the place of the resource, and, unless the expression is about
// the resource itself, the path of the type and the part. Standard output: a line for each case, `[…]` what was found,
// or `null` if the package gave up.
const [, , modules] = process.argv;
const fhirpath = require(`${modules}/fhirpath`);
const model = require(`${modules}/fhirpath/fhir-context/r4`);

// What `trace` says would stand among the answers.
const options = { traceFn: () => {} };
const compiled = new Map();
const lines = require("fs").readFileSync(0, "utf8").split("\n");
const { resources } = JSON.parse(lines.shift());
const answers = [];
for (const line of lines) {
  if (!line) continue;
  const [position, base, part, expression] = JSON.parse(line);
  const resource = resources[position];
  const key = `${base}\n${expression}`;
  let answer = null;
  try {
    if (!compiled.has(key)) {
      compiled.set(key, fhirpath.compile(base ? { base, expression } : expression, model, options));
    }
    answer = compiled.get(key)(base ? part : resource, { resource, rootResource: resource });
  } catch {}
  answers.push(JSON.stringify(answer));
}
process.stdout.write(answers.join("\n") + "\n");
