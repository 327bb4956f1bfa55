// A person's first day, without JavaScript: enrol, sign in, find a patient, read the record, add a measurement, see
// who has looked. Then every page again with it: accessible, operable by keyboard, nothing refused by its own policy.
import assert from "node:assert/strict";
import { code, isAccessible, launch, open, origin, picture, tellsNothing } from "./common.mjs";

const { family, given } = JSON.parse(process.env.WARD_PATIENT);
const password = "quiet lamp over nine rivers";
const browser = await launch();
const plain = await open(browser, { javaScriptEnabled: false });
const page = await plain.context.newPage();
const paths = [];
const visited = (address = page.url()) => paths.push(address.slice(origin.length));

// A mistake first: it is named, nothing is lost, and the same link still works.
await page.goto(process.env.WARD_LINK);
visited();
await picture(page, "enrol");
await page.fill("#password", "short");
await page.fill("#code", "12");
await page.click("text=Finish");
assert.match(await page.textContent("#errors"), /at least 12 characters[^]*six digits/);
const key = await page.textContent("#totp-secret");
await page.fill("#password", password);
await page.fill("#password_again", password);
await page.fill("#code", code(key));
await page.click("text=Finish");
await page.waitForURL(`${origin}/sign-in?enrolled`);
visited();

// A wrong password is told only after the code, and in the same words as a wrong code.
await page.fill("#username", "admin");
await page.fill("#password", "not the password at all");
await page.click("text=Continue");
await page.fill("#code", code(key, 1));
await page.click("button:has-text('Sign in')");
assert.match(await page.textContent("#errors"), /not right/);
await page.goto(`${origin}/sign-in`);
await page.fill("#username", "Admin");
await page.fill("#password", password);
await page.click("text=Continue");
visited();
await page.fill("#code", code(key, 1));
await page.click("button:has-text('Sign in')");
await page.waitForURL(`${origin}/`);
visited();
assert.equal(await page.textContent("#signed-in-as"), "First administrator");

// By name, in any order, and half of it.
await page.fill("#name", `${family.slice(0, 3)} ${given}`);
await page.click("form.find button");
await page.waitForURL(`${origin}/patients/found/*`);
visited();
await picture(page, "found");
await page.click(`#results a:has-text("${family}")`);
visited();
assert.match(await page.textContent("h1"), new RegExp(family));
for (const section of ["conditions", "medications", "allergies", "encounters", "vital-signs", "notes"]) {
  assert.equal(await page.locator(`#${section}`).count(), 1, section);
}
assert.ok((await page.locator(".graphs svg").count()) >= 3, "graphs");
const rows = await page.locator("#vital-signs-table tbody tr").count();
assert.ok(rows > 5, "the same as a table");
await picture(page, "chart");
const chart = page.url();

await page.click("#add-observation");
visited();
await page.selectOption("#kind", "heart-rate");
await page.fill("#value", "fast");
await page.click("#save");
assert.match(await page.textContent("#errors"), /must be a number/);
await page.fill("#value", "71");
await page.click("#save");
await page.waitForURL(`${chart}?saved`);
assert.equal(await page.locator("#vital-signs-table tbody tr").count(), rows + 1);
assert.match(await page.textContent("#vital-signs-table tbody tr:first-child"), /Heart rate[^]*71/);

await page.click("#accesses-link");
visited();
await picture(page, "accesses");
const accesses = await page.textContent("#accesses");
assert.match(accesses, /First administrator/);
assert.match(accesses, /127\.0\.0\.1/);
await tellsNothing(page, plain.addresses);

// With JavaScript, under the pages' own policy, by keyboard.
const cookies = (await plain.context.cookies()).filter((cookie) => cookie.name.startsWith("__Host-ward"));
assert.ok(cookies.every((cookie) => cookie.secure && cookie.httpOnly && cookie.sameSite === "Strict" && cookie.path === "/"));
const scripted = await open(browser);
await scripted.context.addCookies(cookies);
const keyboard = await scripted.context.newPage();
await keyboard.goto(`${origin}/`);
await keyboard.keyboard.press("Tab");
assert.equal(await keyboard.evaluate(() => document.activeElement.textContent), "Skip to main content");
await keyboard.keyboard.press("Enter");
assert.equal(await keyboard.evaluate(() => document.activeElement.id), "main");
await keyboard.focus("#name");
await keyboard.keyboard.type(family);
await keyboard.keyboard.press("Enter");
await keyboard.waitForURL(`${origin}/patients/found/*`);
await keyboard.focus("#results a >> nth=0");
await keyboard.keyboard.press("Enter");
await keyboard.waitForSelector("#vital-signs");
const outline = await keyboard.evaluate(() => {
  document.querySelector("#add-observation").focus();
  return getComputedStyle(document.activeElement).outlineStyle;
});
assert.notEqual(outline, "none", "what has the focus shows it");
assert.equal(await keyboard.isVisible("#idle-warning"), false);
await tellsNothing(keyboard, scripted.addresses);

// A form of another site changes nothing.
const forged = await scripted.context.request.post(`${origin}/sign-out`, {
  headers: { origin: "https://evil.example", "sec-fetch-site": "cross-site" }, maxRedirects: 0,
}).catch((error) => ({ status: () => String(error) }));
assert.equal(forged.status(), 403);

for (const path of paths) await isAccessible(browser, cookies, path);

await page.click("#sign-out");
await page.waitForURL(`${origin}/signed-out`);
await page.goto(chart);
assert.notEqual(page.url(), chart, "what was open is not after signing out");
await browser.close();
console.log("ok");
