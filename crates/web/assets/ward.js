// The only script of these pages: a warning before a session ends for being idle. Without it the page leaves by
// itself when the time is over (a refresh in its head), and the server ends the session in any case.
// No mark-up is ever made from text here; the pages' policy (Trusted Types) would refuse it.

const WARNING_SECONDS = 120;
const page = document.documentElement;
const dialog = document.getElementById("idle-warning");
let next;

async function remaining(path, method) {
  const response = await fetch(path, { method, headers: { accept: "application/json" }, cache: "no-store" });
  if (!response.ok) return response.status === 401 ? 0 : null;
  return (await response.json()).remaining;
}

function expire() {
  location.replace("/session/expired");
}

function checkIn(seconds) {
  clearTimeout(next);
  next = setTimeout(check, seconds * 1000);
}

function plan(seconds) {
  // A server that cannot be reached now may be back in a moment; the session ends there in any case.
  if (seconds === null) return checkIn(15);
  if (seconds <= 0) return expire();
  if (seconds <= WARNING_SECONDS + 1) return warn(seconds);
  if (dialog.open) dialog.close();
  checkIn(Math.max(1, seconds - WARNING_SECONDS));
}

async function check() {
  plan(await remaining("/session/remaining", "GET").catch(() => null));
}

function warn(seconds) {
  const output = document.getElementById("idle-seconds");
  const end = Date.now() + seconds * 1000;
  output.textContent = String(seconds);
  if (!dialog.open) dialog.showModal();
  let asked = Date.now();
  const tick = setInterval(async () => {
    const left = Math.max(0, Math.round((end - Date.now()) / 1000));
    output.textContent = String(left);
    if (!dialog.open) return clearInterval(tick);
    // Another tab may have been used meanwhile.
    if (left === 0 || Date.now() - asked > 20_000) {
      asked = Date.now();
      const now = await remaining("/session/remaining", "GET").catch(() => null);
      if (now === null && left > 0) return;
      clearInterval(tick);
      if (now === null) expire();
      else plan(now);
    }
  }, 1000);
}

if (dialog && page.dataset.remaining) {
  document.getElementById("stay-signed-in").addEventListener("click", async (event) => {
    event.preventDefault();
    const seconds = await remaining("/session/renew", "POST").catch(() => null);
    dialog.close();
    plan(seconds);
  });
  // Escape closes a dialog; here it means the same as its button.
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    document.getElementById("stay-signed-in").click();
  });
  // A page shown again out of the browser's memory asks anew before anything else.
  addEventListener("pageshow", (event) => {
    if (event.persisted) check();
  });
  // A device that slept has missed its timers.
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && !dialog.open) check();
  });
  plan(Number(page.dataset.remaining));
}
