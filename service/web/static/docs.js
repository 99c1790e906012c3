// Starts Swagger UI; a file of its own, because the page's policy allows no script within the page.
"use strict";
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#docs", deepLinking: true, layout: "BaseLayout", validatorUrl: null });
