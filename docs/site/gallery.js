// The search box of the gallery: a card stays while every word typed stands in its text.
const box = document.querySelector("#gallery-search");
box?.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(/\s+/);
  const cards = [...document.querySelectorAll(".card")];
  for (const card of cards) {
    const text = card.textContent.toLowerCase();
    card.hidden = !words.every((word) => text.includes(word));
  }
  document.querySelector("#gallery-none").hidden = cards.some((card) => !card.hidden);
});
