package api

import (
	_ "embed"
	"net/http"
)

// openAPI describes all that is served. A test holds it against the routes and against live answers.
//
//go:embed openapi.json
var openAPI []byte

func describe(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	// A client that is gone is no fault of ours; net/http closes the connection.
	_, _ = w.Write(openAPI)
}
