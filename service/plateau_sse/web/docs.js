// The page at /docs: shows openapi.json, which lies beside it, with Swagger UI.
// What must hold: nothing is asked of any other host, and no address of another document is taken.

const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", paint);
paint();

// What Swagger UI leaves without a name, or at a level of which the page has another already.
const MENDED = [
  [".info .title", "aria-level", "2"],
  ["#servers", "aria-label", "Server"],
];
function mend() {
  for (const [found, name, value] of MENDED) {
    for (const node of document.querySelectorAll(found)) {
      if (node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
  }
}
const docs = document.getElementById("docs");
new MutationObserver(mend).observe(docs, {childList: true, subtree: true});

const ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  displayOperationId: false,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  queryConfigEnabled: false,
  syntaxHighlight: {theme: "tomorrow-night"},
  tryItOutEnabled: true,
  validatorUrl: null,
  onComplete: () => {
    // What pages are made of is nothing that one would ask for by hand.
    ui.layoutActions.show(["operations-tag", "pages"], false);
    docs.setAttribute("aria-busy", "false");
  },
});
