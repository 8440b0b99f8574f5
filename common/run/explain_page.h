// explain_page.h - the page of --explain: one HTML file that needs nothing else, neither a network nor a script.
//
// What stands in it by itself: the text as a strip of tokens, each coloured by the pass that last changed what is
// predicted to follow it and linked to its row in a table of all positions; a summary of the passes. A script, if it may
// run, takes the data (JSON, in the page) and shows a chosen token's passes side by side.
//
// The JSON: {"tokens": [shown, ...], "at": [[token, [of each pass: bits * 100, loss * 1000, token, p * 10000, ...]],
// ...]}, tokens by their places in the first list.
#ifndef PONDER_EXPLAIN_PAGE_H
#define PONDER_EXPLAIN_PAGE_H

#include "explain_numbers.h"
#include "../files/json.h"

// Begins every page, so that one is known when it is to be replaced.
#define EXPLAIN_MARK "<!doctype html>\n<!-- a page of ponder.c: --explain -->\n"

// --hue tints by the share of the passes (--c) after which a prediction last changed; the ink on it has a contrast of
// 4.5 : 1 and more in both schemes. The bar below a token says the same to whoever sees no colours, and on paper.
static const char explain_style[] =
    ":root{--bg:#fff;--ink:#1c2128;--soft:#5c6470;--line:#d5d9df;--box:#f3f4f6;--hue:0 104 "
    "168;--most:.5;--hit:#00704f}\n"
    "@media screen and (prefers-color-scheme:dark){:root{--bg:#0d1117;--ink:#e6edf3;--soft:#9aa4b2;--line:#30363d;\n"
    "--box:#1a212b;--hue:86 180 233;--most:.42;--hit:#4fd1a5}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0 auto;padding:1.2rem;max-width:76rem;background:var(--bg);color:var(--ink);\n"
    "font:16px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:1.35rem;margin:0 0 .3rem}h2{font-size:1rem;margin:1.3rem 0 .4rem}h3{font-size:.9rem;margin:0}\n"
    "p{margin:.3rem 0;max-width:48rem}.soft,small{color:var(--soft);font-size:.85rem}\n"
    "code,.strip{font:15px/1.5 ui-monospace,Consolas,monospace}\n"
    "code{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;background:var(--box);border-radius:3px;\n"
    "padding:0 .2em}\n"
    ".strip{margin:1rem 0;padding:.6rem .8rem;border:1px solid var(--line);border-radius:6px;line-height:2;\n"
    "white-space:pre-wrap;overflow-wrap:anywhere}\n"
    ".c{background:rgb(var(--hue)/calc(var(--c,0)*var(--most)));\n"
    "border-bottom:calc(var(--c,0)*4px) solid "
    "rgb(var(--hue));print-color-adjust:exact;-webkit-print-color-adjust:exact}\n"
    ".strip a{color:inherit;text-decoration:none;unicode-bidi:isolate;padding:.12em "
    "0;border-radius:2px;margin-right:1px}\n"
    ".strip a:hover{outline:1px solid var(--soft)}\n"
    ".strip a:focus-visible,.strip a[aria-current]{outline:2px solid var(--ink);outline-offset:1px}\n"
    ".legend{list-style:none;display:flex;flex-wrap:wrap;gap:.3rem 1rem;margin:.5rem 0;padding:0;font-size:.85rem}\n"
    ".legend .c{padding:.1em .5em;margin-right:.4em}\n"
    "#panel{background:var(--bg);border:1px solid var(--line);border-radius:6px;padding:.6rem .8rem}\n"
    "#panel.on{position:sticky;bottom:0;max-height:60vh;overflow:auto;border-radius:6px 6px 0 0;\n"
    "box-shadow:0 -6px 16px rgb(0 0 0/.12)}\n"
    "#panel[hidden]{display:none}\n"
    ".head{display:flex;gap:.5rem;align-items:baseline;margin-bottom:.5rem;flex-wrap:wrap}.head h2{flex:1 1 "
    "14rem;margin:0}\n"
    "button{font:inherit;font-size:.85rem;color:inherit;background:var(--box);border:1px solid var(--line);\n"
    "border-radius:4px;padding:.25rem .7rem;min-height:2rem;cursor:pointer}\n"
    "#passes{display:grid;grid-auto-flow:column;grid-auto-columns:minmax(10.5rem,1fr);gap:.9rem;overflow-x:auto;\n"
    "padding-bottom:.3rem}\n"
    "#passes ol{list-style:none;margin:.3rem 0 0;padding:0}\n"
    "#passes li{display:grid;grid-template-columns:1fr auto;gap:0 .4rem;padding:.12rem 0;align-items:baseline}\n"
    "#passes li.next{border-top:1px solid var(--line);margin-top:.25rem;padding-top:.3rem}\n"
    "#passes li>code{justify-self:start;border:1px solid var(--line);min-width:1.4em;max-width:100%;\n"
    "white-space:pre;overflow:hidden;text-overflow:ellipsis}#passes li>small{grid-column:1/3}\n"
    "#passes li>span{font-size:.85rem;font-variant-numeric:tabular-nums}\n"
    ".bar{grid-column:1/3;height:5px;background:var(--box);border-radius:3px;overflow:hidden}\n"
    ".bar i{display:block;height:100%;background:rgb(var(--hue))}\n"
    ".hit code,.hit>span{color:var(--hit);font-weight:600}.hit .bar i{background:var(--hit)}\n"
    ".tag{font-size:.75rem;font-weight:400;border:1px solid rgb(var(--hue));border-radius:3px;padding:0 "
    ".3em;margin-left:.4em}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}\n"
    "th,td{padding:.25rem .7rem;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}\n"
    "th{font-weight:600}.n td,.n th{text-align:right}.n td{white-space:nowrap}\n"
    "td i{display:block;font-style:normal;color:var(--soft);font-size:.8rem;white-space:nowrap}\n"
    "td.ch{box-shadow:inset 3px 0 rgb(var(--hue))}tr:target{background:var(--box)}\n"
    "details{margin:1rem 0}summary{cursor:pointer;font-weight:600;padding:.3rem 0}\n"
    "@media(max-width:40rem){body{padding:.8rem}#panel.on{max-height:50vh}th,td{padding:.25rem .4rem}}\n"
    "@media print{#panel{display:none}body{max-width:none}tr{break-inside:avoid}}\n";

// Everything that it writes is text, never HTML. One token of the strip can be reached by Tab; arrows go on from there.
static const char explain_script[] =
    "(function(){'use strict';\n"
    "var D=JSON.parse(document.getElementById('data').textContent),A=document.querySelectorAll('.strip a'),\n"
    "P=document.getElementById('panel'),G=document.getElementById('passes'),H=P.querySelector('h2'),\n"
    "all=document.getElementById('all'),now=-1;\n"
    "function add(to,tag,text,cls){var x=document.createElement(tag);if(text!=null)x.textContent=text;\n"
    "if(cls)x.className=cls;to.appendChild(x);return x}\n"
    "function pct(p){return(p>=.1?(100*p).toFixed(0):p>=.001?(100*p).toFixed(1):(100*p).toPrecision(1))+' %'}\n"
    "function row(to,t,p,cls,why){var li=add(to,'li',null,cls),b;if(why)add(li,'small',why);\n"
    "add(li,'code',D.tokens[t]);add(li,'span',pct(p));\n"
    "b=add(add(li,'div',null,'bar'),'i');b.style.width=Math.max(100*p,.5)+'%'}\n"
    "function show(k,focus){if(k<0||k>=A.length)return;\n"
    "if(now>=0){A[now].removeAttribute('aria-current');A[now].tabIndex=-1}\n"
    "if(now>=0)P.className='on';now=k;A[k].setAttribute('aria-current','true');A[k].tabIndex=0;if(focus)A[k].focus({"
    "preventScroll:true});\n"
    "var at=D.at[k],next=k+1<D.at.length?D.at[k+1][0]:-1,last=-1,s,i,c,d,h;\n"
    "P.hidden=false;H.textContent='';G.textContent='';\n"
    "H.append('Position '+k+': after ');add(H,'code',D.tokens[at[0]]);\n"
    "if(next>=0){H.append(' the text goes on with ');add(H,'code',D.tokens[next])}else H.append(' the text ends');\n"
    "for(s=0;s<at[1].length;s++){c=at[1][s];d=add(G,'div');h=add(d,'h3','Pass '+s);\n"
    "if(s&&c[2]!==last)add(h,'span','changed','tag');last=c[2];\n"
    "add(d,'small',(c[0]/100).toFixed(2)+' bits');d=add(d,'ol');\n"
    "for(i=2;i<c.length;i+=2)row(d,c[i],c[i+1]/1e4,c[i]===next?'hit':'');\n"
    "if(next>=0)row(d,next,Math.exp(-c[1]/1000),'next hit','the text goes on with')}\n"
    "if(P.className){c=A[k].getBoundingClientRect();d=P.getBoundingClientRect().top;\n"
    "if(c.top<8)scrollBy(0,c.top-60);else if(c.bottom>d-8)scrollBy(0,c.bottom-d+60)}}\n"
    "function to(k){show(k,true);try{history.replaceState(null,'','#t'+now)}catch(e){}}\n"
    "A.forEach(function(a,k){a.tabIndex=k?-1:0;a.addEventListener('click',function(e){e.preventDefault();to(k)})});\n"
    "document.querySelector('.strip').addEventListener('keydown',function(e){\n"
    "var left=getComputedStyle(this).direction==='rtl'?1:-1,\n"
    "k={ArrowLeft:now+left,ArrowRight:now-left,Home:0,End:A.length-1}[e.key];\n"
    "if(k==null||e.ctrlKey||e.altKey||e.metaKey)return;e.preventDefault();to(Math.min(Math.max(k,0),A.length-1))});\n"
    "P.addEventListener('click',function(e){var d=+e.target.getAttribute('data-step');if(d)show(now+d)});\n"
    "all.open=false;window.addEventListener('beforeprint',function(){all.open=true});\n"
    "var "
    "m=/^#t(\\d+)$/"
    ".exec(location.hash),k=m?+m[1]:-1,i;if(A[k]){P.className='on';A[k].scrollIntoView({block:'center'})}\n"
    "for(i=0;k<0&&i<A.length;i++)if(A[i].hasAttribute('style'))k=i;show(A[k]?k:0)})();\n";

// Appends text, which is UTF-8, for an element or an attribute.
static inline void explain_html(StringBuilder* sb, const char* text) {
    for (; *text; text++) {
        const char* entity = *text == '&'    ? "&amp;"
                             : *text == '<'  ? "&lt;"
                             : *text == '>'  ? "&gt;"
                             : *text == '"'  ? "&quot;"
                             : *text == '\'' ? "&#39;"
                                             : NULL;
        sb_append(sb, entity ? entity : text, entity ? strlen(entity) : 1);
    }
}

// A token as it is shown; the caller frees it.
static inline char* explain_token(const Tokenizer* tokenizer, int id) {
    char piece[TOKENIZER_PIECE];
    StringBuilder sb = {0};
    sb_append(&sb, "", 0);
    explain_show(&sb, piece, tokenizer_decode(tokenizer, id, piece));
    return sb.data;
}

static inline void explain_html_token(StringBuilder* sb, const Tokenizer* tokenizer, int id) {
    char* text = explain_token(tokenizer, id);
    explain_html(sb, text);
    free(text);
}

// What the page says of where its numbers are from.
typedef struct {
    const char* model;    // its directory
    const char* program;  // train_X
    const char* note;     // a sentence more, or NULL
} ExplainSource;

static inline void explain_page_head(StringBuilder* sb, const Explained* e, const ExplainSource* source) {
    StringBuilder model = {0};
    explain_show(&model, source->model, strlen(source->model));
    sb_printf(sb, EXPLAIN_MARK "<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>");
    explain_html(sb, model.data);
    sb_printf(sb, ": what each pass predicts</title>\n"
                  "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                  "<meta name=\"color-scheme\" content=\"light dark\">\n<style>\n");
    sb_append(sb, explain_style, sizeof explain_style - 1);
    sb_printf(sb, "</style>\n</head>\n<body>\n<main>\n<h1>What each pass predicts</h1>\n<p><code>");
    explain_html(sb, model.data);
    sb_printf(sb, "</code> by %s: %d pass%s (S = %d), a text of %d token%s.", source->program, e->passes,
              e->passes == 1 ? "" : "es", e->passes - 1, e->n, e->n == 1 ? "" : "s");
    if (source->note) { sb_printf(sb, " %s", source->note); }
    sb_printf(
        sb,
        "</p>\n<p class=\"soft\">Probabilities are softmax of the logits after each pass, without temperature: what "
        "a validation's loss of that pass is computed from. Only those of the last pass are what the model answers; "
        "those before it show the way there. \\n, \\xNN and \\u{N} stand for characters and bytes that cannot be "
        "shown.</p>\n");
    free(model.data);
}

// The text as tokens.
static inline void explain_page_strip(StringBuilder* sb, const Explained* e, const Tokenizer* tokenizer) {
    int S = e->passes - 1;
    sb_printf(sb,
              "<h2 id=\"text\">The text</h2>\n<p class=\"soft\">A token is coloured, and has a bar below it, by the "
              "pass that last changed the most probable token <em>after</em> it. Choose one, by arrow keys too, for "
              "its passes.</p>\n<ul class=\"legend\">\n");
    for (int s = 0; s <= S; s++) {
        if (S > 8 && s > 0 && (S - s) % ((S + 7) / 8) != 0) { continue; }  // about eight, the last one among them
        sb_printf(sb, "<li><span class=\"c\" style=\"--c:%.3g\">%d</span>%s</li>\n", S ? (double)s / S : 0.0, s,
                  s == 0   ? "pass 0, never changed"
                  : s == S ? "the last pass"
                           : "");
    }
    sb_printf(sb, "</ul>\n<div class=\"strip\" dir=\"auto\" role=\"group\" aria-labelledby=\"text\">");
    for (int i = 0; i < e->n; i++) {
        char piece[TOKENIZER_PIECE];
        size_t size = tokenizer_decode(tokenizer, e->tokens[i], piece);
        int settled = explain_settled(e, i);
        sb_printf(sb, "<a class=\"c\" href=\"#p%d\"", i);
        if (settled) { sb_printf(sb, " style=\"--c:%.3g\"", (double)settled / S); }
        sb_printf(sb, ">");
        explain_html_token(sb, tokenizer, e->tokens[i]);
        sb_printf(sb, "</a>%s", memchr(piece, '\n', size) ? "<br>" : "");
    }
    sb_printf(
        sb, "</div>\n<section id=\"panel\" aria-labelledby=\"chosen\" hidden>\n<div class=\"head\"><h2 id=\"chosen\" "
            "aria-live=\"polite\">Position</h2><button type=\"button\" data-step=\"-1\">previous</button>"
            "<button type=\"button\" data-step=\"1\">next</button></div>\n"
            "<div id=\"passes\" tabindex=\"0\" role=\"group\" aria-label=\"passes side by side\"></div>\n</section>\n");
}

static inline void explain_page_summary(StringBuilder* sb, const Explained* e) {
    sb_printf(sb,
              "<h2>All positions, by pass</h2>\n<div class=\"wide\"><table class=\"n\">\n<thead><tr><th "
              "scope=\"col\">pass</th><th scope=\"col\">changed here</th><th scope=\"col\">changed last here</th><th "
              "scope=\"col\">mean entropy, bits</th><th scope=\"col\">mean loss, nats</th><th scope=\"col\">next token "
              "comes first</th></tr></thead>\n<tbody>\n");
    for (int s = 0; s < e->passes; s++) {
        ExplainPass sum = explain_pass(e, s);
        sb_printf(sb, "<tr><th scope=\"row\">%d</th><td>", s);
        sb_printf(sb, s ? "%d" : "&ndash;", sum.changed);
        sb_printf(sb, "</td><td>%d%s</td><td>%.3f</td>", sum.settled, s ? "" : " never", sum.entropy);
        sb_printf(sb, e->n > 1 ? "<td>%.4f</td><td>%d of %d</td></tr>\n" : "<td>&ndash;</td><td>&ndash;</td></tr>\n",
                  sum.loss, sum.hits, e->n - 1);
    }
    sb_printf(sb, "</tbody></table></div>\n");
}

// A row a position, for whoever has no script, reads aloud, or prints.
static inline void explain_page_table(StringBuilder* sb, const Explained* e, const Tokenizer* tokenizer) {
    sb_printf(sb,
              "<details id=\"all\" open>\n<summary>Every position as a table</summary>\n<p class=\"soft\">Of each pass "
              "the most probable token and its probability, with a bar on the left where that token changed; below "
              "it the probability of the token that follows, and the entropy.</p>\n<div class=\"wide\"><table>\n"
              "<thead><tr><th scope=\"col\">at</th><th scope=\"col\">token</th><th scope=\"col\">follows</th>");
    for (int s = 0; s < e->passes; s++) { sb_printf(sb, "<th scope=\"col\">pass %d</th>", s); }
    sb_printf(sb, "</tr></thead>\n<tbody>\n");
    for (int i = 0; i < e->n; i++) {
        sb_printf(sb, "<tr id=\"p%d\"><td>%d</td><td><code>", i, i);
        explain_html_token(sb, tokenizer, e->tokens[i]);
        sb_printf(sb, "</code></td><td>");
        if (explain_next(e, i) >= 0) {
            sb_printf(sb, "<code>");
            explain_html_token(sb, tokenizer, explain_next(e, i));
            sb_printf(sb, "</code>");
        }
        sb_printf(sb, "</td>");
        for (int s = 0; s < e->passes; s++) {
            const ExplainToken* best = explain_best(e, i, s);
            sb_printf(sb, explain_changed(e, i, s) ? "<td class=\"ch\"><code>" : "<td><code>");
            explain_html_token(sb, tokenizer, best->id);
            sb_printf(sb, "</code> %.1f&nbsp;%%<i>", 100 * (double)best->p);
            if (explain_next(e, i) >= 0) {
                double p = 100 * exp_d(-e->loss[explain_at(e, i, s)]);
                sb_printf(sb, p < 0.1 ? "%.1g %%, " : "%.1f %%, ", p);
            }
            sb_printf(sb, "%.2f bits</i></td>", e->entropy[explain_at(e, i, s)]);
        }
        sb_printf(sb, "</tr>\n");
    }
    sb_printf(sb, "</tbody></table></div>\n</details>\n");
}

// JSON that stands in a <script>: no "<" in it, so neither </script> nor a comment.
static inline void explain_page_data(StringBuilder* sb, const Explained* e, const Tokenizer* tokenizer, int V) {
    int* places = (int*)xalloc((size_t)V, sizeof(int), "tokens of a page");  // 1 + where a token is listed
    StringBuilder tokens = {0}, at = {0};
    int listed = 0;
    for (int i = 0; i < e->n; i++) {
        // The position's own token, then the candidates of all its passes.
        int all = 1 + e->passes * e->count;
        for (int k = 0; k < all; k++) {
            const ExplainToken* best = explain_best(e, i, 0) + k - 1;
            int id = k ? best->id : e->tokens[i];
            if (!places[id]) {
                char* text = explain_token(tokenizer, id);
                sb_printf(&tokens, listed ? "," : "");
                json_append_string(&tokens, text, strlen(text));
                free(text);
                places[id] = ++listed;
            }
            if (k == 0) {
                sb_printf(&at, "%s[%d,[", i ? ",\n" : "", places[id] - 1);
                continue;
            }
            int s = (k - 1) / e->count;
            if ((k - 1) % e->count == 0) {
                size_t cell = explain_at(e, i, s);
                sb_printf(&at, "%s[%.0f,%.0f", s ? "]," : "", 100 * e->entropy[cell], 1000 * e->loss[cell]);
            }
            sb_printf(&at, ",%d,%.0f", places[id] - 1, 1e4 * (double)best->p);
        }
        sb_printf(&at, "]]]");
    }
    sb_printf(sb, "<script type=\"application/json\" id=\"data\">{\"tokens\":[");
    for (size_t i = 0; i < tokens.size; i++) {
        const char* c = tokens.data + i;
        sb_append(sb, *c == '<' ? "\\u003c" : c, *c == '<' ? 6 : 1);
    }
    sb_printf(sb, "],\n\"at\":[");
    sb_append(sb, at.data, at.size);
    sb_printf(sb, "]}</script>\n");
    free(places);
    free(tokens.data);
    free(at.data);
}

// The whole page; the caller frees it. V: the vocabulary.
static inline StringBuilder explain_page(const Explained* e, const Tokenizer* tokenizer, int V,
                                         const ExplainSource* source) {
    StringBuilder sb = {0};
    explain_page_head(&sb, e, source);
    explain_page_strip(&sb, e, tokenizer);
    explain_page_summary(&sb, e);
    explain_page_table(&sb, e, tokenizer);
    sb_printf(&sb, "</main>\n");
    explain_page_data(&sb, e, tokenizer, V);
    sb_printf(&sb, "<script>\n");
    sb_append(&sb, explain_script, sizeof explain_script - 1);
    sb_printf(&sb, "</script>\n</body>\n</html>\n");
    return sb;
}

#endif
