"use strict";
// Puts parts of the page that have changed in the place of the old ones, as the coordinator sends them.
const live = document.getElementById("live");
if (live) {
  const say = (text, state) => { live.textContent = text; live.dataset.state = state; };
  const scrolls = (element) => Array.from(element.querySelectorAll(".scroll"));
  const replace = (id, html) => {
    const old = document.getElementById(id);
    const fresh = new DOMParser().parseFromString(html, "text/html").body.firstElementChild;
    if (!old || !fresh || fresh.id !== id) return;
    const left = scrolls(old).map((box) => box.scrollLeft);
    const reading = old.contains(document.activeElement) && document.activeElement.getAttribute("href");
    old.replaceWith(document.adoptNode(fresh));
    scrolls(fresh).forEach((box, i) => { box.scrollLeft = left[i] || 0; });
    const link = reading && Array.from(fresh.querySelectorAll("a")).find((a) => a.getAttribute("href") === reading);
    if (link) link.focus({ preventScroll: true });
  };
  const source = new EventSource(live.dataset.events);
  source.addEventListener("open", () => say("live", "on"));
  source.addEventListener("part", (event) => {
    const end = event.data.indexOf("\n");
    replace(event.data.slice(0, end), event.data.slice(end + 1));
  });
  source.addEventListener("error", () => {
    const over = source.readyState === EventSource.CLOSED;
    say(over ? "no longer live: reload this page" : "connection lost, trying again", "off");
  });
}
