//! Headings of tables in the user's language.

use matome_model::language::Language;

/// A heading: capitals in English, its translation in Japanese where there is one.
pub fn of(name: &str, language: Language) -> String {
    let translated = match language {
        Language::English => None,
        Language::Japanese => japanese(name),
    };
    translated.map_or_else(|| name.to_uppercase(), str::to_owned)
}

fn japanese(name: &str) -> Option<&'static str> {
    Some(match name {
        "name" => "名前",
        "type" => "種類",
        "status" => "状態",
        "interval" => "間隔(秒)",
        "last fetched" => "最終取得",
        "source" => "データソース",
        "attempt" => "試行",
        "started" => "開始",
        "finished" => "終了",
        "result" => "結果",
        "error" => "エラー",
        "updated" => "更新",
        "acquired" => "取得",
        "aggregated" => "集約",
        "raw data" => "生データ",
        "data" => "データ",
        "version" => "版",
        "path" => "パス",
        "change" => "変更",
        "old" => "旧",
        "new" => "新",
        "invariant" => "不変条件",
        "what" => "内容",
        "table" => "テーブル",
        "primary key" => "主キー",
        "deleted" => "削除済み",
        "action" => "操作",
        "reason" => "理由",
        "outcome" => "結末",
        "seen" => "回数",
        "detail" => "詳細",
        "where" => "場所",
        "key" => "設定",
        "value" => "値",
        "origin" => "由来",
        "severity" => "重要度",
        "fix" => "対処",
        "default" => "既定値",
        "meaning" => "意味",
        _ => return None,
    })
}
