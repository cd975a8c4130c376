// Package status is the model of what the daemon tells about itself: engines fill it, internal/api renders it as JSON,
// metrics and text. Its JSON is a contract (openapi.json).
//
//	Status    what holds now: uplinks, LANs, policies, problems; Planned is what of it a plan says
//	Event     what has changed, a line of the decision log; Changes makes some of two plans
//	History   what was seen of the last day
//	Usage     what metered uplinks have carried
package status
