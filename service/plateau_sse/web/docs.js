// The page at /docs: shows openapi.json, which lies beside it, with Swagger UI.
// What must hold: nothing is asked of any other host, and no address of another document is taken.

const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", paint);
paint();

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
    document.getElementById("docs").setAttribute("aria-busy", "false");
  },
});
